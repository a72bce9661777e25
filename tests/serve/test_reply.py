"""A client that leaves stops the work, wherever it is."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from fake_llm import FakeLLM, wait_until
from fastapi.testclient import TestClient
from http_replies import CHAT, PLAIN, leave, problem

from ling.errors import RequestError
from ling.serve.app import create_app
from ling.serve.reply import while_connected


class Asked:
    """An HTTP request whose client leaves when told so."""

    def __init__(self):
        self.left = asyncio.Event()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}


def test_work_ends_with_its_result_its_error_or_the_client():
    async def run():
        asked, cancelled = Asked(), []

        async def slow():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        async def fails():
            raise ValueError("own")

        assert await while_connected(asked, asyncio.sleep(0, "done")) == "done"
        with pytest.raises(ValueError, match="own"):
            await while_connected(asked, fails())
        asyncio.get_running_loop().call_later(0.01, asked.left.set)
        with pytest.raises(RequestError) as left:
            await while_connected(asked, slow())
        await asyncio.sleep(0)
        assert (left.value.status, cancelled) == (499, [True])
        late = time.monotonic() + 0.01
        with pytest.raises(RequestError) as over:
            await while_connected(Asked(), slow(), late)
        await asyncio.sleep(0)
        assert (over.value.status, cancelled) == (504, [True, True])
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


# ---- in the app --------------------------------------------------------------------------------


class SlowTokenizer:
    """Holds encoding up until it is told to go on."""

    def __init__(self, tokenizer):
        self._tokenizer, self.begun, self.go = tokenizer, threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def encode(self, *args, **kwargs):
        self.begun.set()
        assert self.go.wait(30)
        return self._tokenizer.encode(*args, **kwargs)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_while_tokenising_never_reaches_the_engine(stream):
    llm = FakeLLM()
    llm.tokenizer = slow = SlowTokenizer(llm.tokenizer)
    app = create_app(llm, served_model_name="fake")
    service = app.state.service
    body = {**CHAT, "stream": stream, "n": 2}
    asyncio.run(leave(app, "/v1/chat/completions", body, slow.begun.is_set))
    assert service.num_running == 0
    slow.go.set()
    wait_until(lambda: not service.busy and llm.open_streams == 0)
    service.close()


@pytest.mark.parametrize(
    "extra",
    [{"stream": True}, {}, {"echo": True, "logprobs": 1, "max_tokens": 1}],
    ids=["before the first token of a stream", "before a whole reply", "while scoring"],
)
def test_leaving_before_the_first_token_stops_the_engine(extra):
    llm = FakeLLM(step_s=0.2)
    app = create_app(llm, served_model_name="fake")
    service = app.state.service
    body = {**PLAIN, **extra}
    begun = asyncio.run(leave(app, "/v1/completions", body, lambda: llm.open_streams > 0))
    assert service.num_running == 0
    assert begun == ["http.response.start", "http.response.body"]  # the refusal nobody reads
    wait_until(lambda: llm.open_streams == 0)
    assert llm.steps <= 1
    service.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_deadline_before_the_first_byte_is_504(stream):
    llm = FakeLLM(step_s=5)
    with TestClient(create_app(llm, served_model_name="fake")) as client:
        body = {**PLAIN, "stream": stream, "timeout_s": 0.05}
        assert problem(client.post("/v1/completions", json=body), 504)["code"] == "timeout"
        assert client.app.state.service.num_running == 0
        assert llm.terms[-1].scheduling.deadline < time.monotonic()
    client.app.state.service.close()


def test_priority_salt_and_key_reach_the_engine(client, llm):
    def terms(path="/v1/completions", body=PLAIN, key="k", **fields):
        headers = {"Authorization": f"Bearer {key}"}
        client.post(path, json={**body, "max_tokens": 1, **fields}, headers=headers)
        return llm.terms[-1]

    plain, other = terms(), terms(key="other")
    assert (plain.cache_salt, plain.scheduling.priority, plain.scheduling.deadline) == ("", 0, None)
    assert not plain.scheduling.is_chat_turn
    assert terms("/v1/chat/completions", CHAT).scheduling.is_chat_turn
    salted = terms(cache_salt="s", priority=-3)
    assert (salted.cache_salt, salted.scheduling.priority) == ("s", -3)
    keys = [t.scheduling.share_key for t in (plain, other, salted)]
    assert len(set(keys)) == 3
    assert terms().scheduling.share_key == keys[0]
