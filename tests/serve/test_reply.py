"""A client that leaves stops the work, wherever it is."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fake_llm import FakeLLM, wait_until
from http_replies import CHAT, PLAIN

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
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


# ---- in the app --------------------------------------------------------------------------------


async def leave(app, path, body, when):
    """Send a request to the app as a server does, and leave when `when()` is true."""
    import json

    sent, begun = [{"type": "http.request", "body": json.dumps(body).encode()}], []

    async def receive():
        if sent:
            return sent.pop()
        while not when():
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message):
        begun.append(message["type"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
    }
    await asyncio.wait_for(app(scope, receive, send), 30)
    return begun


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
