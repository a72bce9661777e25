"""How long the parts of a reply took."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from http_replies import streamed
from scripted import ScriptedLLM

from ling.serve.app import create_app
from ling.serve.timings import timings_of

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


def request(times, cached=0, prompt=10, output=4):
    names = ("arrived", "started", "first_token", "last_token")
    return SimpleNamespace(
        timeline=SimpleNamespace(**dict(zip(names, times, strict=True))),
        num_cached_tokens=cached,
        num_prompt_tokens=prompt,
        num_output_tokens=output,
        num_drafted=3,
        num_accepted=2,
    )


def test_times_are_those_of_all_choices_together():
    times = timings_of([request((1, 2, 4, 7), 6), request((1, 3, 5, 9), 8)])
    assert (times.queue_ms, times.prompt_ms, times.predicted_ms) == (1000, 2000, 5000)
    assert (times.cache_n, times.prompt_n, times.predicted_n) == (6, 4, 8)
    assert (times.prompt_per_second, times.predicted_per_second) == (2.0, 6 / 5)
    assert (times.draft_n, times.draft_n_accepted) == (6, 4)
    two = timings_of([request((1, 2, 4, 7), 6), request((1, 3, 5, 9), 8)], num_prompts=2)
    assert (two.cache_n, two.prompt_n) == (14, 6)


def test_what_has_yet_to_come_takes_no_time():
    times = timings_of([request((1, 0, 0, 0), output=0)])
    assert (times.queue_ms, times.prompt_ms, times.predicted_ms) == (0, 0, 0)
    assert (times.prompt_per_second, times.predicted_per_second) == (0, 0)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_reply_tells_its_times_on_request(path):
    body = {**ASK, "prompt": "ab"} if path == "/v1/completions" else ASK
    with ScriptedLLM("one two three") as llm:
        client = TestClient(create_app(llm, served_model_name="m"))

        def told(**fields):
            return [e.get("timings") for e in streamed(client, path, {**body, **fields})]

        whole = client.post(path, json={**body, "timings": True}).json()
        assert whole["timings"]["predicted_n"] == whole["usage"]["completion_tokens"]
        assert whole["timings"]["prompt_n"] == whole["usage"]["prompt_tokens"]
        assert "timings" not in client.post(path, json=body).json()
        assert not any(told() + told(timings=False))
        *before, last = told(timings=True)
        assert not any(before)
        assert last["predicted_n"] == whole["usage"]["completion_tokens"]
        each = [t["predicted_n"] for t in told(timings_per_token=True) if t]
        assert each == sorted(each)
        assert each[-1] == whole["usage"]["completion_tokens"]
        client.app.state.service.close()
