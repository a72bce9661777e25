"""The clients of `soak.py`: what they ask for, and how they leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from typing import Any

KEYS = ("first-key-of-two", "second-key-of-two")
MODEL = "tiny"
LEAVES = 0.35
"""Share of clients that do not wait for all of the reply."""
HALF = 0.03
"""Share of those that break off within the request."""
REPLY_S = 60.0
WORDS = ("def f(x):", "import os", "Grüße, 世界 ☃!", "</tool_call>", "<|role_end|>", "0 1 2")
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "is_far": {"type": "boolean"}},
    "required": ["city"],
    "additionalProperties": False,
}
HOSTILE = {"allOf": [{"type": "string", "pattern": f".*{chr(97 + i)}.*"} for i in range(20)]}
Body = dict[str, Any]


class Client:
    """Asks again and again, each time for something else; `outcomes` counts what came of it."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self._port, self._rng = port, rng
        self.outcomes: Counter[str] = Counter()

    async def run_until(self, end: float) -> None:
        """One request after the other, with short pauses, until this time of `time.monotonic`."""
        while time.monotonic() < end:
            path, data = self._request()
            leaves_after_s = self._rng.expovariate(8) if self._rng.random() < LEAVES else None
            self.outcomes[await self._outcome(path, data, leaves_after_s)] += 1
            await asyncio.sleep(self._rng.choice((0.0, 0.01, 0.05)))

    async def _outcome(self, path: str, data: bytes, leaves_after_s: float | None) -> str:
        limit = REPLY_S if leaves_after_s is None else leaves_after_s
        try:
            return await asyncio.wait_for(self._reply(path, data), limit)
        except asyncio.TimeoutError:
            return "left" if leaves_after_s is not None else "500 no reply in time"
        except (ConnectionError, asyncio.IncompleteReadError):
            return "500 no reply"

    async def _reply(self, path: str, data: bytes) -> str:
        """Status of the reply, of which all was read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            whole = self._head(path, len(data)) + data
            if self._rng.random() < HALF:
                writer.write(whole[: self._rng.randrange(len(whole))])
                await asyncio.sleep(self._rng.random())
                return "left with half a request"
            writer.write(whole)
            return _status(await reader.read())
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _head(self, path: str, size: int) -> bytes:
        key = self._rng.choice((*KEYS, *KEYS, *KEYS, "wrong"))
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            "Connection: close",
            f"Authorization: Bearer {key}",
            "Content-Type: application/json",
            f"Content-Length: {size}",
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    # ---- what is asked ---------------------------------------------------------------------------

    def _request(self) -> tuple[str, bytes]:
        path = self._rng.choice(tuple(_MAKERS))
        body = {"model": MODEL, **_MAKERS[path](self._rng)}
        if self._rng.random() < 0.15:
            _spoil(body, self._rng)
        data = json.dumps(body).encode()
        return path, data[:-1] if self._rng.random() < 0.02 else data


def _status(reply: bytes) -> str:
    if not reply:
        return "500 no reply"
    status = reply.split(b" ", 2)[1].decode()
    is_stream = b"content-type: text/event-stream" in reply[:1000].lower()
    if not is_stream or b'"error"' in reply:
        return f"{status} with an error event" if is_stream else status
    ends = (b"data: [DONE]", b"event: response.", b"event: message_stop")
    return "200 streamed" if any(end in reply for end in ends) else "500 cut short"


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.choice((1, 2, 5, 12))))


def _messages(rng: random.Random) -> list[Body]:
    turns = [{"role": "user", "content": _text(rng)}]
    if rng.random() < 0.4:
        turns.append({"role": "assistant", "content": _text(rng)})
        turns.append({"role": "user", "content": _text(rng)})
    return turns


def _common(rng: random.Random) -> Body:
    fields: Body = {
        "stream": rng.random() < 0.5,
        "temperature": rng.choice((0, 0.7, 1)),
        "top_p": rng.choice((1, 0.8)),
        "seed": rng.choice((None, rng.randrange(1000))),
        "priority": rng.choice((None, None, -1, 2)),
        "cache_salt": rng.choice((None, None, "a", "b")),
        "timeout_s": rng.choice((None, None, None, 0.2)),
        "ignore_eos": rng.random() < 0.5,
        "repetition_penalty": rng.choice((1, 1.05)),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _schema(rng: random.Random) -> Body:
    """A schema that was seen before, a new one, or one that takes too long."""
    kind = rng.random()
    if kind < 0.05:
        return HOSTILE
    if kind < 0.6:
        return CITY
    names = [f"p{rng.randrange(10**6)}" for _ in range(rng.randint(1, 4))]
    properties = {name: {"type": rng.choice(("boolean", "null"))} for name in names}
    return {"type": "object", "properties": properties, "required": names}


def _tools(rng: random.Random) -> list[Body]:
    return [
        {"name": f"get_{i}", "description": _text(rng), "parameters": _schema(rng)}
        for i in range(rng.randint(1, 3))
    ]


def _form(rng: random.Random) -> Body:
    """At most one of the fields that say what a chat's or completion's answer is."""
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": _schema(rng)}}
    return rng.choice(
        (
            {},
            {},
            {"response_format": {"type": "json_object"}},
            {"response_format": named},
            {"structured_outputs": {"regex": "[a-f]{1,9}"}},
            {"structured_outputs": {"choice": ["yes", "no"]}},
            {"structured_outputs": {"grammar": 'start: "a" | "b" start'}},
        )
    )


def _chat(rng: random.Random) -> Body:
    body = {"messages": _messages(rng), "max_tokens": rng.randint(1, 60), **_common(rng)}
    if rng.random() < 0.3:
        body["tools"] = [{"type": "function", "function": tool} for tool in _tools(rng)]
        body["tool_choice"] = rng.choice(("auto", "none", "required"))
    else:
        body |= _form(rng)
    if rng.random() < 0.3:
        body |= {"n": rng.randint(1, 3), "logprobs": True, "top_logprobs": rng.randint(0, 5)}
    if rng.random() < 0.3:
        body |= {"reasoning_effort": "low", "thinking_budget": rng.randint(0, 20)}
    return body


def _completion(rng: random.Random) -> Body:
    body = {"prompt": _text(rng), "max_tokens": rng.randint(1, 60), **_common(rng), **_form(rng)}
    if rng.random() < 0.3:
        body |= {"echo": True, "logprobs": rng.randint(0, 5)}
    if rng.random() < 0.3:
        body |= {"logit_bias": {str(rng.randrange(200)): 5}, "stop": [_text(rng)[:20]]}
    return body


def _response(rng: random.Random) -> Body:
    body = {"input": _messages(rng), "max_output_tokens": rng.randint(1, 60), **_common(rng)}
    if rng.random() < 0.4:
        body["tools"] = [{"type": "function", **tool} for tool in _tools(rng)]
        body["tool_choice"] = rng.choice(("auto", "none", "required"))
    elif rng.random() < 0.5:
        body["text"] = {"format": {"type": "json_schema", "name": "n", "schema": _schema(rng)}}
    return body


def _message(rng: random.Random) -> Body:
    body = {"messages": _messages(rng), "max_tokens": rng.randint(1, 60), **_common(rng)}
    if rng.random() < 0.4:
        tools = _tools(rng)
        body["tools"] = [{"name": t["name"], "input_schema": t["parameters"]} for t in tools]
        body["tool_choice"] = {"type": rng.choice(("auto", "any", "none"))}
    return body


_MAKERS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
    "/v1/messages": _message,
    "/v1/messages/count_tokens": lambda rng: {"messages": _messages(rng)},
    "/tokenize": lambda rng: {"prompt": _text(rng)},
}


def _spoil(body: Body, rng: random.Random) -> None:
    """Give one field a value that is wrong, or take it away."""
    name = rng.choice(tuple(body))
    if rng.random() < 0.2:
        del body[name]
    else:
        body[name] = rng.choice((-1, 10**30, "\ud800", [[[]]], {"a": {}}, "x" * 10_000, None))
