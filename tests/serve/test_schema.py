"""Every way to ask wrongly, and the shape of the answer."""

import concurrent.futures
import gzip
import json

import jsonschema
import pytest
from fake_llm import NAME, FakeLLM, wait_until
from fastapi.testclient import TestClient
from http_replies import CHAT, JSON, PLAIN, problem

from ling.errors import RunError
from ling.serve import service
from ling.serve.app import create_app


def tool(name, **function):
    return {"type": "function", "function": {"name": name, **function}}


def nested(levels):
    """An object in an object, so many times."""
    value = {}
    for _ in range(levels):
        value = {"a": value}
    return value


TOOL = tool("f")
CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
BAD_CHAT = [
    ("model", {"model": 5}),
    ("model", {"model": None}),
    ("messages", {"messages": []}),
    ("messages", {"messages": "hi"}),
    ("messages[0].role", {"messages": [{"role": "wizard", "content": "x"}]}),
    ("messages[0].content", {"messages": [{"role": "user"}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": 5}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": "\ud800"}]}),
    (
        "messages[0].content",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://x"}}],
                }
            ]
        },
    ),
    (
        "messages[0].tool_calls[0].function",
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
    ),
    ("messages[0]", {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}),
    (
        "messages[0].tool_calls",
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [CALL] * 129}]},
    ),
    (
        "messages[0].tool_calls[0].type",
        {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]},
    ),
    (
        "messages[0].tool_calls[0].function.arguments",
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]}
            ]
        },
    ),
    ("messages[0].content", {"messages": [{"role": "tool", "tool_call_id": "x"}]}),
    ("messages[0].audio", {"messages": [{"role": "assistant", "audio": {"id": "x"}}]}),
    ("n", {"n": 10**9}),
    ("n", {"n": 0}),
    ("n", {"n": True}),
    ("temperature", {"temperature": -1}),
    ("temperature", {"temperature": "hot"}),
    ("top_p", {"top_p": 0}),
    ("top_p", {"top_p": 1.5}),
    ("top_k", {"top_k": 1.5}),
    ("min_p", {"min_p": 2}),
    ("repetition_penalty", {"repetition_penalty": 0}),
    ("presence_penalty", {"presence_penalty": 3}),
    ("frequency_penalty", {"frequency_penalty": "x"}),
    ("seed", {"seed": 2**70}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -2}),
    ("max_tokens", {"max_tokens": 3.5}),
    ("max_tokens", {"max_tokens": "3"}),
    ("max_tokens", {"max_tokens": 2**63 + 1}),
    ("best_of", {"best_of": 2, "n": 3}),
    ("best_of", {"best_of": 2}),
    ("continue_final_message", {"continue_final_message": 1}),
    ("messages", {"continue_final_message": True}),
    (
        "continue_final_message",
        {
            "messages": [{"role": "assistant", "content": "a"}],
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
    ),
    ("max_completion_tokens", {"max_completion_tokens": 0}),
    ("min_tokens", {"min_tokens": 50, "max_tokens": 5}),
    ("stop", {"stop": ["x"] * 10_000}),
    ("stop", {"stop": [""]}),
    ("stop", {"stop": 5}),
    ("stream", {"stream": "yes"}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("priority", {"priority": 0.5}),
    ("priority", {"priority": 2**31}),
    ("timeout_s", {"timeout_s": 0}),
    ("timeout_s", {"timeout_s": 10**9}),
    ("cache_salt", {"cache_salt": ""}),
    ("cache_salt", {"cache_salt": "x" * 257}),
    ("logprobs", {"logprobs": 1}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 10**9}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("tools", {"tools": {}}),
    ("tools", {"tools": [TOOL] * 2}),
    ("tools", {"tools": [tool(f"f{i}") for i in range(129)]}),
    ("tools", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}),
    ("tools", {"tools": [{"type": "function", "function": {}}]}),
    ("tools", {"tools": [tool("")]}),
    ("tools", {"tools": [tool('f"')]}),
    ("tools", {"tools": [tool("f", parameters=[])]}),
    ("tools", {"tools": [tool("f", parameters={"x": "\ud800"})]}),
    ("tools", {"tools": [tool("f", parameters={"x": float("nan")})]}),
    ("tools", {"tools": [tool("f", parameters=nested(70))]}),
    ("tools", {"tools": [tool("f", strict=1)]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tool_choice": "any", "tools": [TOOL]}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "g"}}}),
    (
        "tool_choice",
        {"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]},
    ),
    ("tool_choice", {"tool_choice": {"type": "allowed_tools"}, "tools": [TOOL]}),
    ("parallel_tool_calls", {"parallel_tool_calls": "no"}),
    ("functions", {"functions": [{"name": "f"}]}),
    ("response_format.type", {"response_format": {"type": "structural_tag"}}),
    ("response_format", {"response_format": {"type": "json_schema"}}),
    ("response_format.json_schema.schema", {"response_format": FORMAT | {"json_schema": {}}}),
    ("response_format", {"response_format": {"type": "json_schema", "json_schema": None}}),
    ("structured_outputs", {"structured_outputs": {}}),
    ("structured_outputs", {"structured_outputs": {"regex": "a", "choice": ["a"]}}),
    ("structured_outputs.choice", {"structured_outputs": {"choice": []}}),
    ("guided_regex", {"guided_regex": "a", "response_format": {"type": "json_object"}}),
    ("thinking_token_budget", {"thinking_token_budget": -1}),
    ("include_reasoning", {"include_reasoning": 0}),
    ("truncate_prompt_tokens", {"truncate_prompt_tokens": 10**10}),
    ("bad_words", {"bad_words": ["x"]}),
    ("allowed_token_ids", {"allowed_token_ids": [1]}),
    ("prompt_logprobs", {"prompt_logprobs": 1}),
    ("documents", {"documents": [{"text": "x"}]}),
    ("web_search_options", {"web_search_options": {}}),
    ("audio", {"audio": {"voice": "x"}}),
    ("modalities", {"modalities": ["text", "audio"]}),
    ("logit_bias.5", {"logit_bias": {"5": 101}}),
    ("logit_bias.x", {"logit_bias": {"x": 1}}),
    ("logit_bias", {"logit_bias": {str(i): 1 for i in range(1025)}}),
    ("logit_bias", {"logit_bias": {"123456789": 1}}),
    ("logit_bias", {"logit_bias": [5]}),
    ("chat_template", {"chat_template": "{{ 1 }}"}),
    ("chat_template_kwargs", {"chat_template_kwargs": 1}),
    ("chat_template_kwargs.thinking", {"chat_template_kwargs": {"thinking": "yes"}}),
    ("reasoning_effort", {"reasoning_effort": 1}),
    ("reasoning_effort", {"reasoning_effort": "much"}),
    ("user", {"user": 5}),
    ("max_completion_tokens", {"max_completion_tokens": "many"}),
]


@pytest.mark.parametrize(
    ("param", "change"), BAD_CHAT, ids=[f"{i}-{p}" for i, (p, _) in enumerate(BAD_CHAT)]
)
def test_bad_chat_field_is_named(client, param, change):
    # `json=` of the client refuses half surrogate pairs; escaped they can be sent.
    reply = client.post(
        "/v1/chat/completions", content=json.dumps({**CHAT, **change}), headers=JSON
    )
    error = problem(reply, 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


BAD_PLAIN = [
    ("prompt", {"prompt": None}),
    ("prompt", {"prompt": []}),
    ("prompt", {"prompt": ""}),
    ("prompt", {"prompt": [[]]}),
    ("prompt", {"prompt": [1, "a"]}),
    ("prompt", {"prompt": [True]}),
    ("prompt", {"prompt": [-1]}),
    ("prompt", {"prompt": [256]}),
    ("prompt", {"prompt": ["a"] * 1000}),
    ("logprobs", {"logprobs": 21}),
    ("logprobs", {"logprobs": True}),
    ("max_tokens", {"max_tokens": 0}),
    ("best_of", {"best_of": 10**9}),
    ("suffix", {"suffix": "x"}),
    ("echo", {"echo": 1}),
]


@pytest.mark.parametrize(
    ("param", "change"), BAD_PLAIN, ids=[f"{i}-{p}" for i, (p, _) in enumerate(BAD_PLAIN)]
)
def test_bad_completion_field_is_named(client, param, change):
    assert problem(client.post("/v1/completions", json={**PLAIN, **change}), 400)["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": "fake", "prompt": "x", "seed": ' + b"9" * 200_000 + b"}",
        b'{"model": "fake", "prompt": "x", "\\ud800": 1}',
    ],
    ids=lambda b: repr(b[:12]),
)
def test_bad_body_is_refused_and_the_server_lives(client, body):
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        error = problem(client.post(path, content=body, headers=JSON), 400)
        assert error["type"] == "invalid_request_error"
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("value", [b"NaN", b"1e999", b"-Infinity"])
def test_number_that_is_not_finite_is_blamed_on_its_field(client, value):
    body = b'{"model": "fake", "prompt": "x", "temperature": ' + value + b"}"
    assert (
        problem(client.post("/v1/completions", content=body, headers=JSON), 400)["param"]
        == "temperature"
    )


def test_prompt_over_context_names_both_numbers(client, llm):
    for path, body in (
        ("/v1/completions", {**PLAIN, "prompt": "x" * 300}),
        ("/v1/completions", {**PLAIN, "prompt": [1] * llm.max_model_len}),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "x" * 300}]}),
    ):
        error = problem(client.post(path, json=body), 400)
        assert error["code"] == "context_length_exceeded"
        assert str(llm.max_model_len) in error["message"]
    assert "317" in error["message"]


def test_unknown_model_and_path_and_method(client):
    error = problem(client.post("/v1/completions", json={**PLAIN, "model": "other"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert problem(client.get("/v1/models/other"), 404)["code"] == "model_not_found"
    assert problem(client.get("/v1/nothing"), 404)["code"] == "not_found"
    reply = client.get("/v1/completions")
    assert "use POST" in problem(reply, 405)["message"]
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/chat/completions", "use `/v1/chat/completions` (a base URL ends in `/v1`)"),
        ("/models", "use `/v1/models`"),
        ("/v1/v1/completions", "use `/v1/completions`"),
        ("/api/v1/chat/completions", "use `/v1/chat/completions`"),
        ("/v1/chat/completion", "did you mean `/v1/chat/completions`?"),
        ("/v1/tokenize", "use `/tokenize`"),
        ("/nothing", "`/openapi.json` lists the endpoints"),
    ],
)
def test_unknown_path_names_the_way_out(client, path, wanted):
    assert wanted in problem(client.post(path, json={}), 404)["message"]


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}])
def test_wrong_path_or_method_comes_before_a_wrong_type(client, headers):
    for method, path, status in (
        ("PUT", "/v1/completions", 405),
        ("PATCH", "/tokenize", 405),
        ("POST", "/health", 405),
        ("POST", "/v1/nothing", 404),
        ("POST", "/v1/completions", 415),
    ):
        problem(client.request(method, path, content=b"x", headers=headers), status)


def test_only_plain_json_is_read(client):
    body = json.dumps(PLAIN).encode()
    for headers in ({"Content-Type": "text/plain"}, {}, {**JSON, "Content-Encoding": "gzip"}):
        sent = gzip.compress(body) if "Content-Encoding" in headers else body
        problem(client.post("/v1/completions", content=sent, headers=headers), 415)
    charset = {"Content-Type": "application/json; charset=utf-8"}
    assert client.post("/v1/completions", content=body, headers=charset).status_code == 200


def test_large_body_is_refused_by_its_length_and_by_its_bytes(llm):
    with TestClient(create_app(llm, served_model_name=NAME, max_body_bytes=1000)) as client:
        declared = client.post("/v1/completions", content=b"x" * 1001, headers=JSON)
        chunked = client.post("/v1/completions", content=iter([b"x" * 600] * 2), headers=JSON)
        assert problem(declared, 413)["code"] == "request_too_large"
        assert problem(chunked, 413)["code"] == "request_too_large"
        assert client.post("/v1/completions", json=PLAIN).status_code == 200


@pytest.mark.parametrize("key", ["secret", "schlüssel"])
def test_api_key_guards_everything_but_health(llm, key):
    with TestClient(create_app(llm, served_model_name=NAME, api_key=key)) as client:
        bad = [
            b"",
            b"Bearer",
            b"Bearer wrong",
            b"Basic " + key.encode(),
            b"Bearer \xff\xfe",
            key.encode(),
        ]
        paths = [
            "/v1/models",
            "/openapi.json",
            "/version",
            "/health%2f..%2fv1/models",
            "/x",
        ]
        for path in paths:
            for value in bad:
                reply = client.get(path, headers={"Authorization": value})
                error = problem(reply, 401)
                assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
                assert key not in reply.text
        assert client.get("/health").status_code == 200
        good = {"Authorization": b"bearer " + key.encode()}
        assert client.get("/v1/models", headers=good).status_code == 200


def test_foreign_host_is_refused_when_hosts_are_known(llm):
    app = create_app(llm, served_model_name=NAME, allowed_hosts=frozenset({"127.0.0.1", "::1"}))
    with TestClient(app) as client:
        error = problem(client.get("/health", headers={"Host": "Evil.example:80"}), 403)
        assert error["code"] == "forbidden"
        assert "`--allowed-host evil.example`" in error["message"]
        assert "API key" in error["message"]
        for host in ("127.0.0.1:8000", "127.0.0.1", "[::1]:8000"):
            assert client.get("/health", headers={"Host": host}).status_code == 200


def test_no_model_yet_means_503_with_retry_after():
    app = create_app(None, served_model_name=NAME)
    with TestClient(app) as client:
        for reply in (client.get("/health"), client.post("/v1/completions", json=PLAIN)):
            assert problem(reply, 503)["code"] == "loading"
            assert int(reply.headers["retry-after"]) > 0
        app.state.service.llm = FakeLLM()
        assert client.get("/health").status_code == 200


def test_engine_error_is_500_without_details_and_others_go_on(client, llm):
    llm.error = RuntimeError("secret path")
    for path, body in (
        ("/v1/completions", PLAIN),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
    ):
        reply = client.post(path, json=body)
        assert problem(reply, 500)["type"] == "server_error"
        assert "secret" not in reply.text
    llm.error = RunError("broken")
    assert problem(client.post("/v1/completions", json=PLAIN), 500)
    llm.error = None
    assert client.post("/v1/completions", json=PLAIN).status_code == 200


def test_engine_error_in_mid_stream_is_an_event(client, llm):
    llm.error, llm.error_after = RuntimeError("x"), 2
    reply = client.post("/v1/completions", json={**PLAIN, "stream": True})
    events = [line[6:] for line in reply.text.split("\n\n") if line]
    assert json.loads(events[-2])["error"]["type"] == "server_error"
    assert events[-1] == "[DONE]"
    assert llm.open_streams == 0


def test_full_queue_is_429_with_retry_after(monkeypatch):
    monkeypatch.setattr(service, "MAX_CHOICES", 2)
    llm = FakeLLM(step_s=0.05)
    body = {**PLAIN, "n": 2, "max_tokens": 20}
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            first = pool.submit(client.post, "/v1/completions", json=body)
            wait_until(lambda: llm.open_streams == 2)
            second = client.post("/v1/completions", json=body)
        assert problem(second, 429)["type"] == "rate_limit_error"
        assert int(second.headers["retry-after"]) > 0
        assert first.result().status_code == 200
        assert client.post("/v1/completions", json=body).status_code == 200


def test_a_refusal_says_when_there_will_be_room_by_the_rate_of_late(monkeypatch):
    ends, now = service.Ends(), 100.0
    monkeypatch.setattr(service.time, "monotonic", lambda: now)
    assert ends.seconds_for(1) is None
    for now in (100.0, 104.0, 108.0):  # noqa: B007
        ends.add(2)
    now = 110.0
    assert (ends.seconds_for(1), ends.seconds_for(3), ends.seconds_for(1000)) == (2, 5, 60)


def test_refusals_come_before_a_prompt_is_tokenised(monkeypatch):
    monkeypatch.setattr(service, "MAX_CHOICES", 1)
    llm = FakeLLM(step_s=0.05)
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            first = pool.submit(client.post, "/v1/completions", json={**PLAIN, "max_tokens": 20})
            wait_until(lambda: llm.open_streams == 1)
            llm.tokenizer.encode = None  # would be a 500
            for path, body in (("/v1/completions", PLAIN), ("/v1/chat/completions", CHAT)):
                assert problem(client.post(path, json=body), 429)
        assert first.result().status_code == 200


def test_texts_that_wait_to_be_tokenised_are_bounded(client, monkeypatch):
    monkeypatch.setattr(service, "MAX_TEXTS", 0)
    assert problem(client.post("/tokenize", json={"prompt": "x"}), 429)


def test_every_reply_has_its_own_request_id(client):
    ids = {client.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_unknown_fields_are_ignored_with_one_log_line_a_name(client, caplog):
    body = {"tempratur": 1, "x\u001b[2J": 2, "chat_template_kwargs": {"unheard": 1}}
    for _ in range(2):
        assert client.post("/v1/chat/completions", json={**CHAT, **body}).status_code == 200
    lines = [r.getMessage() for r in caplog.records if "ignored" in r.getMessage()]
    assert sorted(lines) == sorted(
        f"the request field `{name}` is not known here and is ignored"
        for name in ("tempratur", "x?[2J", "chat_template_kwargs.unheard")
    )


def test_published_schema_states_the_rules_between_fields(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for path, name, good in (
        ("/v1/chat/completions", "ChatRequest", CHAT),
        ("/v1/completions", "CompletionRequest", PLAIN),
        ("/tokenize", "TokenizeRequest", {"prompt": "hi"}),
    ):
        schema = {**schemas[name], "components": {"schemas": schemas}}
        judge = jsonschema.Draft202012Validator(schema)
        assert schema["additionalProperties"] is True
        for change in (
            {},
            {"unheard": 1},
            {"max_tokens": 3.0},
            {"max_tokens": -1},
            {"max_tokens": 0},
            {"max_completion_tokens": 0},
            {"max_completion_tokens": 1, "max_tokens": -1},
            {"max_tokens": 0, "echo": True},
            {"max_tokens": 0, "echo": True, "stream": True},
            {"stream_options": {}},
            {"stream_options": {}, "stream": True},
            {"stream_options": None},
            {"top_logprobs": 1},
            {"top_logprobs": 1, "logprobs": True},
            {"continue_final_message": True, "add_generation_prompt": True},
            {"prompt": "a", "messages": CHAT["messages"]},
            {"prompt": None, "messages": CHAT["messages"]},
            {"messages": [{"role": "user"}]},
            {"messages": [{"role": "assistant"}]},
            {"tools": [{}]},
            {"tools": []},
            {"user": 1},
            {"top_k": 1.0},
            {"seed": 2**63},
            {"stop_token_ids": [-1]},
            {"logit_bias": {"x": 1}},
            {"logit_bias": {"5": 101}},
            {"tools": [TOOL]},
            {"tools": [tool('f"')]},
            {"tools": [{"type": "custom"}]},
            {"tools": [], "tool_choice": "any"},
            {"response_format": {"type": "json_schema"}},
            {"response_format": {"type": "text"}},
            {"structured_outputs": {"choice": []}},
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]},
            {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
            {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        ):
            body = {**good, **change}
            status = client.post(path, json=body).status_code
            assert judge.is_valid(body) == (status == 200), (name, change, status)
