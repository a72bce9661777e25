"""The prompt before each choice, and its scores."""

from __future__ import annotations

import itertools

import pytest
from fake_llm import NAME, wait_until
from http_replies import PLAIN, streamed

from ling.serve.echo import only_scores, scores_prompts
from ling.serve.schema.completion import CompletionRequest

SCORED = {"echo": True, "logprobs": 1}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"max_tokens": 1}, (False, False)),
        ({"echo": True, "max_tokens": 1}, (False, False)),
        ({"logprobs": 1, "max_tokens": 1}, (False, False)),
        ({**SCORED, "max_tokens": 0}, (True, True)),
        ({**SCORED, "max_tokens": 1}, (True, True)),
        ({**SCORED, "max_tokens": 2}, (True, False)),
        ({**SCORED, "max_tokens": 1, "n": 2}, (True, False)),
        ({**SCORED, "max_tokens": 1, "stream": True}, (True, False)),
        ({"echo": True, "max_tokens": 0}, (False, True)),
    ],
)
def test_scores_are_made_where_wanted_and_may_be_all(fields, wanted):
    body = CompletionRequest(**{**PLAIN, **fields})
    assert (scores_prompts(body), only_scores(body)) == wanted


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_with_logprobs_scores_the_prompt(client, llm, max_tokens):
    # What lm-eval's `local-completions` sends.
    body = {
        "model": NAME,
        "prompt": [[97, 98, 99], [100]],
        "temperature": 0,
        "max_tokens": max_tokens,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    reply = client.post("/v1/completions", json=body).json()
    first, second = (c["logprobs"] for c in reply["choices"])
    new = ["G"] * max_tokens
    assert first["tokens"] == ["a", "b", "c", *new]
    assert first["token_logprobs"] == [None, -0.5, -0.5] + [-0.5] * max_tokens
    assert first["top_logprobs"][:2] == [None, {"b": -0.5}]
    assert first["text_offset"] == list(range(3 + max_tokens))
    assert second["tokens"] == ["d", *new]
    assert reply["choices"][0]["text"] == "".join(["abc", *new])
    assert reply["usage"]["completion_tokens"] == 2 * max_tokens
    assert llm.params == []  # one scoring pass, no second one to generate


def test_echo_streams_prompt_first_and_offsets_go_on(client):
    body = {"model": NAME, "prompt": "ab", "echo": True, "logprobs": 0, "max_tokens": 2}
    whole = client.post("/v1/completions", json=body).json()["choices"][0]
    assert whole["text"] == "abGr"
    assert whole["logprobs"]["text_offset"] == [0, 1, 2, 3]
    events = streamed(client, "/v1/completions", body)
    assert "".join(e["choices"][0]["text"] for e in events) == "abGr"
    offsets = [e["choices"][0]["logprobs"]["text_offset"] for e in events]
    assert list(itertools.chain(*offsets)) == [0, 1, 2, 3]


def test_scoring_that_fails_ends_with_its_error_and_leaves_nothing(client, llm):
    llm.error = RuntimeError("secret")
    body = {**PLAIN, **SCORED, "max_tokens": 1, "prompt": ["a", "b"]}
    reply = client.post("/v1/completions", json=body)
    assert reply.status_code == 500
    assert "secret" not in reply.text
    wait_until(lambda: llm.open_streams == 0)
    assert not client.app.state.service.busy
