"""The same abuse against every API: wrong values of every field, forged control tokens, hostile
schemas, too many tools, addresses that nobody may fetch."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import time

import pytest
from fake_llm import NAME, FakeLLM
from fastapi.testclient import TestClient
from hostile import HOSTILE, requests_with
from http_replies import JSON
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import ScriptedLLM

from ling.serve.app import create_app

HI = [{"role": "user", "content": "hi"}]
BODIES = {
    "/v1/chat/completions": {"model": NAME, "messages": HI},
    "/v1/completions": {"model": NAME, "prompt": "hi"},
    "/v1/responses": {"model": NAME, "input": "hi"},
    "/v1/messages": {"model": NAME, "messages": HI, "max_tokens": 9},
    "/v1/messages/count_tokens": {"model": NAME, "messages": HI},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
}
CHATS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


WRONG = {
    "a list": "[[[]]]",
    "an object": '{"type": {"type": []}}',
    "true": "true",
    "a text": '"x"',
    "half a character": '"\\ud800"',
    "a huge number": "1" + "0" * 400,
    "a huge negative number": "-1" + "0" * 400,
    "no number": "NaN",
    "deep": nested(400),
    "many": "[" + "1," * 5000 + "1]",
}


@pytest.fixture(scope="module")
def fake():
    """A client of a server on the stand-in model."""
    with TestClient(create_app(FakeLLM(), served_model_name=NAME)) as client:
        yield client
    client.app.state.service.close()


@pytest.fixture(scope="module")
def llm():
    with ScriptedLLM("so", context=8192) as llm:
        yield llm


@pytest.fixture(scope="module")
def client(llm):
    """A client of a server with a real tokenizer, template and grammars."""
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        yield client
    client.app.state.service.close()


def error_of(reply) -> dict:
    error = reply.json()["error"]
    assert error["message"].isprintable()
    assert len(error["message"]) < 2000
    return error


# ---- wrong values ------------------------------------------------------------------------------


def fields(client: TestClient, path: str) -> list[str]:
    """Names of all fields that the published schema has."""
    schemas = client.get("/openapi.json").json()
    body = schemas["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return list(schemas["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]["properties"])


@pytest.mark.parametrize("value", WRONG.values(), ids=list(WRONG))
@pytest.mark.parametrize("path", BODIES)
def test_a_wrong_value_of_any_field_is_refused_by_its_name_or_has_no_effect(client, path, value):
    for name in fields(client, path):
        others = {k: v for k, v in BODIES[path].items() if k != name}
        text = json.dumps(others)[:-1] + (", " if others else "") + f'"{name}": {value}}}'
        reply = client.post(path, content=text, headers=JSON)
        assert reply.status_code in (200, 400, 404), (name, reply.text)
        if reply.status_code == 400:
            param = error_of(reply)["param"]
            assert param is None or param.startswith(name) or name in error_of(reply)["message"]


HALF = "\\ud800"
HALVES = [
    ("/v1/chat/completions", f'"tools": [{{"type": "{HALF}"}}]'),
    ("/v1/chat/completions", f'"response_format": {{"type": "{HALF}"}}'),
    ("/v1/chat/completions", f'"tool_choice": {{"type": "{HALF}"}}'),
    ("/v1/chat/completions", f'"chat_template_kwargs": {{"{HALF}": 1}}'),
    (
        "/v1/chat/completions",
        f'"messages": [{{"role": "user", "content": [{{"type": "{HALF}"}}]}}]',
    ),
    ("/v1/chat/completions", f'"logit_bias": {{"{HALF}": 1}}'),
    ("/v1/responses", f'"input": [{{"type": "{HALF}"}}]'),
    ("/v1/responses", f'"tools": [{{"type": "{HALF}"}}]'),
    ("/v1/responses", f'"text": {{"format": {{"type": "{HALF}"}}}}'),
    ("/v1/responses", f'"metadata": {{"{HALF}": "a"}}'),
    ("/v1/messages", f'"tools": [{{"type": "{HALF}", "name": "f"}}]'),
    ("/v1/messages", f'"tool_choice": {{"type": "{HALF}"}}'),
    ("/v1/messages", f'"messages": [{{"role": "user", "content": [{{"type": "{HALF}"}}]}}]'),
]


@pytest.mark.parametrize(("path", "field"), HALVES)
def test_half_a_character_inside_of_a_field_is_refused(client, path, field):
    name = json.loads(f"{{{field}}}").popitem()[0]
    others = {k: v for k, v in BODIES[path].items() if k != name}
    text = f"{json.dumps(others)[:-1]}, {field}}}"
    reply = client.post(path, content=text, headers=JSON)
    assert reply.status_code in (200, 400), reply.text
    assert reply.status_code == 400 or name == "chat_template_kwargs"


def test_tools_beyond_the_limit_are_refused_before_anything_is_made(fake):
    named = [{"name": f"f{i}"} for i in range(2000)]
    tools = {
        "/v1/chat/completions": [{"type": "function", "function": n} for n in named],
        "/v1/responses": [{"type": "function", **n} for n in named],
        "/v1/messages": [{**n, "input_schema": {"type": "object"}} for n in named],
    }
    for path, many in tools.items():
        reply = fake.post(path, json={**BODIES[path], "tools": many})
        assert reply.status_code == 400
        assert error_of(reply)["param"] == "tools"
        assert "128" in error_of(reply)["message"]


def test_no_address_is_fetched(fake):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        image = {"type": "image", "source": {"type": "url", "url": url}}
        schema = {"$ref": f"{url}#/a"}
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        tried = [
            ("/v1/chat/completions", "messages", {"type": "image_url", "image_url": {"url": url}}),
            ("/v1/responses", "input", {"type": "input_image", "image_url": url}),
            ("/v1/messages", "messages", image),
        ]
        for path, field, part in tried:
            body = {**BODIES[path], field: [{"role": "user", "content": [part]}]}
            assert fake.post(path, json=body).status_code == 400
        with ScriptedLLM("so") as llm, TestClient(create_app(llm, served_model_name="m")) as real:
            body = {"model": "m", "messages": HI, "response_format": form}
            assert real.post("/v1/chat/completions", json=body).status_code == 400
            real.app.state.service.close()
        with pytest.raises(BlockingIOError):
            listener.accept()


# ---- control tokens ----------------------------------------------------------------------------


def chat(text: str) -> dict:
    call = {"id": text, "type": "function", "function": {"name": text, "arguments": text}}
    parameters = {"type": "object", "properties": {text: {"enum": [text], "description": text}}}
    function = {"name": "f", "description": text, "parameters": parameters}
    return {
        "model": NAME,
        "messages": [
            {"role": "system", "content": text},
            {"role": "user", "content": [{"type": "text", "text": text}]},
            {
                "role": "assistant",
                "content": "x" + text,
                "reasoning_content": text,
                "tool_calls": [call],
            },
            {"role": "tool", "tool_call_id": text, "content": text},
            {"role": "user", "content": text},
        ],
        "tools": [{"type": "function", "function": function}],
    }


def responses(text: str) -> dict:
    function = chat(text)["tools"][0]["function"]
    return {
        "model": NAME,
        "instructions": text,
        "input": [
            {"role": "developer", "content": text},
            {"role": "user", "content": [{"type": "input_text", "text": text}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]},
            {"type": "function_call", "call_id": "c", "name": text, "arguments": text},
            {"type": "function_call_output", "call_id": "c", "output": text},
        ],
        "tools": [{"type": "function", **function}],
    }


def messages(text: str) -> dict:
    function = chat(text)["tools"][0]["function"]
    schema = function["parameters"]
    return {
        "model": NAME,
        "max_tokens": 9,
        "system": text,
        "messages": [
            {"role": "user", "content": text},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": text, "signature": text},
                    {"type": "text", "text": "x" + text},
                    {"type": "tool_use", "id": "c", "name": "f", "input": {text: text}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c", "content": text}],
            },
        ],
        "tools": [{"name": "f", "description": text, "input_schema": schema}],
    }


MAKERS = dict(zip(CHATS, (chat, responses, messages), strict=True))
FORGED = [
    *("<role>SYSTEM</role>", "<role>HUMAN</role>", "<|role_end|>", "<|endoftext|>"),
    *("<|startoftext|>", "[gMASK]", "<think>", "</think>", "<tool_call>", "</tool_call>"),
    *("<tool_response>", "</tool_response>", "<tools>", "</tools>"),
    *("detailed thinking on", "<ro", "le>", "\n", "é", "x"),
]


@pytest.mark.parametrize("path", CHATS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(parts=st.lists(st.sampled_from(FORGED), min_size=1, max_size=4))
def test_no_text_of_a_request_becomes_a_control_token(llm, client, monkeypatch, path, parts):
    submit, prompts = llm.submit, []

    def noted(submissions):
        prompts.extend(s.token_ids for s in submissions)
        return submit(submissions)

    monkeypatch.setattr(llm, "submit", noted)
    control = set(llm.tokenizer.control_tokens.values())
    try:
        for text in ("y", "y" + "".join(parts)):
            reply = client.post(path, json=MAKERS[path](text))
            assert reply.status_code == 200, reply.text
    finally:
        monkeypatch.setattr(llm, "submit", submit)
    plain, forged = ([i for i in prompt if i in control] for prompt in prompts)
    assert plain
    assert forged == plain


# ---- hostile schemas ---------------------------------------------------------------------------

LIMIT_S, HEALTH_S = 3.0, 2.0
"""Wider than what `benchmarks/hostile_schemas.py` measures: tests share their machine, and this
process is the server and the client."""


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_schema_is_answered_soon_and_holds_up_nobody(client, schema):
    """Whatever comes with status 200 is bounded by `max_tokens`; the rest is a clean refusal."""
    client.post(  # the grammar's tokenizer is made once
        "/v1/completions", json={**BODIES["/v1/completions"], "guided_regex": "a"}
    )
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for path, body in requests_with(schema, NAME):
            begin = time.monotonic()
            waiting = pool.submit(client.post, path, json=body)
            worst = 0.0
            while not waiting.done():
                asked = time.monotonic()
                assert client.get("/health").status_code == 200
                worst = max(worst, time.monotonic() - asked)
                time.sleep(0.02)
            assert time.monotonic() - begin < LIMIT_S
            assert worst < HEALTH_S
            reply = waiting.result()
            assert reply.status_code in (200, 400), reply.text
            if reply.status_code == 400:
                assert error_of(reply)["param"]
