"""Requests to the app on the stand-in model, and the shapes that every reply must have."""

from __future__ import annotations

import asyncio
import functools
import json

import jsonschema
from fake_llm import NAME, FakeLLM

from ling.serve.app import create_app

CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
PLAIN = {"model": NAME, "prompt": "hi"}
JSON = {"Content-Type": "application/json"}


def problem(reply, status: int) -> dict:
    """The error object, after the checks that hold for all of them."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"].isprintable()
    return body["error"]


def sse(text: str) -> list:
    """Events of a stream; `[DONE]` stays text, comments are left out."""
    blocks = [b for b in text.split("\n\n") if b and not b.startswith(":")]
    assert all(b.startswith("data: ") and "\n" not in b for b in blocks)
    return [b[6:] if b == "data: [DONE]" else json.loads(b[6:]) for b in blocks]


def streamed(client, path: str, body: dict) -> list:
    reply = client.post(path, json={**body, "stream": True})
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = sse(reply.text)
    assert events.pop() == "[DONE]"
    return events


async def leave(app, path, body, when):
    """Send a request to the app as a server does, and leave when `when()` is true."""
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


def named_events(client, path: str, body: dict) -> list[dict]:
    """Events of a stream whose names are the types of what they say."""
    reply = client.post(path, json={**body, "stream": True})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    blocks = [b for b in reply.text.split("\n\n") if b and not b.startswith(":")]
    pairs = [b.split("\n") for b in blocks]
    events = [json.loads(data.removeprefix("data: ")) for _, data in pairs]
    assert [name for name, _ in pairs] == [f"event: {e['type']}" for e in events]
    return events


def refusal(reply, status: int = 400) -> dict:
    """The error object in Anthropic's shape, after the checks that hold for all of them."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.content)
    body = reply.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == reply.headers["x-request-id"]
    assert set(body["error"]) == {"type", "message", "param"}
    assert body["error"]["message"].isprintable()
    return body["error"]


@functools.cache
def judge(name: str) -> jsonschema.Draft202012Validator:
    """The published schema of a request."""
    schemas = create_app(FakeLLM(), served_model_name=NAME).openapi()["components"]["schemas"]
    schema = {**schemas[name], "components": {"schemas": schemas}}
    assert schema["additionalProperties"] is True
    return jsonschema.Draft202012Validator(schema)
