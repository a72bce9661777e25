"""Replies to good requests."""

import json

import pytest
from fake_llm import NAME, SCRIPT, FakeLLM
from fastapi.testclient import TestClient
from http_replies import CHAT, PLAIN, sse, streamed

from ling.serve.app import create_app


def test_models_lists_the_one_model_and_finds_it_by_name(client):
    listed = client.get("/v1/models").json()
    assert [m["id"] for m in listed["data"]] == [NAME]
    assert client.get(f"/v1/models/{NAME}").json() == listed["data"][0]
    assert listed["data"][0]["max_model_len"] == FakeLLM.max_model_len


def test_names_with_slashes_are_found():
    with TestClient(create_app(FakeLLM(), served_model_name="org/name")) as client:
        assert client.get("/v1/models/org/name").json()["id"] == "org/name"


def test_health_and_version_answer(client):
    assert client.get("/health").status_code == 200
    assert client.get("/version").json()["version"]
    assert "/v1/completions" in client.get("/openapi.json").json()["paths"]


def test_head_asks_as_get_without_the_body(client):
    for path in ("/health", "/v1/models", "/version"):
        reply = client.head(path)
        assert (reply.status_code, reply.content) == (200, b"")
    assert client.head("/v1/completions").status_code == 405


@pytest.mark.parametrize("path", ["/v1/completions/", "/v1//completions", "//v1/completions//"])
def test_slashes_too_many_change_nothing(client, path):
    reply = client.request("POST", f"http://testserver{path}", json=PLAIN, follow_redirects=False)
    assert reply.status_code == 200
    assert reply.json()["choices"]


def test_chat_reply_has_text_reason_and_usage(client):
    reply = client.post("/v1/chat/completions", json=CHAT).json()
    assert reply["object"] == "chat.completion"
    assert reply["model"] == NAME
    choice = reply["choices"][0]
    assert choice["message"]["content"] == SCRIPT
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"
    prompt, answer = len("<user>hi<assistant>"), len(SCRIPT.encode())
    assert reply["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_chat_stream_is_role_then_text_then_reason(client):
    events = streamed(client, "/v1/chat/completions", CHAT)
    deltas = [e["choices"][0]["delta"] for e in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content", "") for d in deltas) == SCRIPT
    assert deltas[-1] == {}
    assert [e["choices"][0]["finish_reason"] for e in events] == [None] * (len(events) - 1) + [
        "stop"
    ]
    assert len({e["id"] for e in events}) == 1
    assert all("usage" not in e for e in events)


def test_stream_usage_comes_last_with_no_choices(client):
    body = {**CHAT, "stream_options": {"include_usage": True}}
    events = streamed(client, "/v1/chat/completions", body)
    assert all(e["usage"] is None for e in events[:-1])
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == len(SCRIPT.encode())


def test_running_usage_grows_with_every_event(client):
    body = {**PLAIN, "stream_options": {"continuous_usage_stats": True}, "max_tokens": 5}
    spent = [e["usage"]["completion_tokens"] for e in streamed(client, "/v1/completions", body)]
    assert spent == sorted(spent)
    assert spent[-1] == 5


@pytest.mark.parametrize(
    "script", ["a\u2028b\x85c\u2029d", 'quote " back \\ nul \x00 bell \x07\r\n']
)
def test_any_text_survives_the_event_stream(script):
    with TestClient(create_app(FakeLLM(script), served_model_name=NAME)) as client:
        body = {**CHAT, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            # httpx splits lines at every line end that Unicode has.
            lines = [line for line in reply.iter_lines() if line]
    events = [json.loads(line[6:]) for line in lines[:-1]]
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events) == script


def test_silence_is_filled_with_comments():
    app = create_app(FakeLLM(step_s=0.1), served_model_name=NAME, keep_alive_s=0.02)
    with TestClient(app) as client:
        reply = client.post("/v1/completions", json={**PLAIN, "stream": True, "max_tokens": 3})
    assert ": keep-alive\n\n" in reply.text
    assert "".join(e["choices"][0]["text"] for e in sse(reply.text)[:-1]) == "Gr"


def test_choices_have_their_own_seeds(client, llm):
    reply = client.post("/v1/chat/completions", json={**CHAT, "n": 3, "seed": 7}).json()
    assert [c["index"] for c in reply["choices"]] == [0, 1, 2]
    assert [c["message"]["content"] for c in reply["choices"]] == [
        f"{SCRIPT}{7 + i}" for i in range(3)
    ]
    events = streamed(client, "/v1/chat/completions", {**CHAT, "n": 3, "seed": 7})
    texts = ["", "", ""]
    for event in events:
        choice = event["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [f"{SCRIPT}{7 + i}" for i in range(3)]


def test_sampling_defaults_are_openais_and_fields_reach_the_engine(client, llm):
    client.post("/v1/chat/completions", json=CHAT)
    plain = llm.params[-1]
    assert (plain.temperature, plain.top_p, plain.seed, plain.logprobs) == (1.0, 1.0, None, None)
    assert plain.max_tokens == llm.max_model_len - len("<user>hi<assistant>")
    fields = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 0.5,
        "seed": 3,
        "min_tokens": 2,
        "stop_token_ids": [5],
        "ignore_eos": True,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
    }
    client.post("/v1/completions", json={**PLAIN, **fields, "stop": "x", "max_tokens": 9})
    given = llm.params[-1]
    assert {name: getattr(given, name) for name in fields} == fields
    assert given.max_tokens == 9
    assert list(given.stop) == ["x"]


def test_max_tokens_is_bounded_by_the_context(client, llm):
    for field in ("max_tokens", "max_completion_tokens"):
        assert client.post("/v1/chat/completions", json={**CHAT, field: 10**18}).status_code == 200
        assert llm.params[-1].max_tokens < llm.max_model_len


def test_harmless_fields_are_accepted(client):
    extra = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logit_bias": None,
        "parallel_tool_calls": True,
    }
    assert client.post("/v1/chat/completions", json={**CHAT, **extra}).status_code == 200


def test_text_parts_and_developer_role_are_read(client):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "d"}, {"role": "user", "content": parts}]
    tokens = client.post("/tokenize", json={"messages": messages}).json()["tokens"]
    assert bytes(tokens) == b"<system>d<user>ab<assistant>"


def test_chat_logprobs_list_the_best_tokens(client):
    body = {**CHAT, "logprobs": True, "top_logprobs": 2, "max_tokens": 3}
    entries = client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"][
        "content"
    ]
    assert [e["token"] for e in entries] == ["G", "r", "\ufffd"]
    assert [t["token"] for t in entries[0]["top_logprobs"]] == ["G", "H"]
    assert entries[0]["bytes"] == [ord("G")]
    events = streamed(client, "/v1/chat/completions", body)
    chunks = [e["choices"][0]["logprobs"] for e in events]
    assert [e for c in chunks if c for e in c["content"]] == entries
    bare = client.post(
        "/v1/chat/completions", json={**CHAT, "logprobs": True, "max_tokens": 1}
    ).json()
    assert bare["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_parts_of_a_character_keep_their_bytes_and_names(client):
    body = {**PLAIN, "logprobs": 2, "max_tokens": 6, "echo": True, "prompt": "é"}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    scores = choice["logprobs"]
    assert choice["text"] == "éGrüße"[: len(choice["text"])]
    assert scores["tokens"][:6] == [
        r"bytes:\xc3",
        r"bytes:\xa9",
        "G",
        "r",
        r"bytes:\xc3",
        r"bytes:\xbc",
    ]
    assert scores["text_offset"][:7] == [0, 0, 1, 2, 3, 3, 4]
    pairs = zip(scores["tokens"], scores["top_logprobs"], strict=True)
    assert all(best is None or token in best for token, best in pairs)
    chat = client.post(
        "/v1/chat/completions", json={**CHAT, "logprobs": True, "max_tokens": 4}
    ).json()["choices"][0]
    content = chat["logprobs"]["content"]
    assert bytes(b for e in content for b in e["bytes"]).decode() == chat["message"]["content"]


def test_an_assistant_may_say_nothing(client):
    for message in ({"role": "assistant", "content": None}, {"role": "assistant"}):
        body = {**CHAT, "messages": [*CHAT["messages"], message, *CHAT["messages"]]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.post("/tokenize", json={"messages": body["messages"]}).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("ab", 1), (["ab", "c"], 2), ([97, 98], 1), ([[97, 98], [99]], 2)],
    ids=["text", "texts", "ids", "id lists"],
)
def test_completion_takes_every_form_of_prompt(client, prompt, count):
    body = {"model": NAME, "prompt": prompt, "n": 2, "max_tokens": 4}
    reply = client.post("/v1/completions", json=body).json()
    assert [c["index"] for c in reply["choices"]] == list(range(2 * count))
    assert all(c["text"] == "Grü" and c["finish_reason"] == "length" for c in reply["choices"])
    assert reply["usage"]["prompt_tokens"] == (2 if count == 1 else 3)
    assert reply["usage"]["completion_tokens"] == 4 * 2 * count


def test_completion_stream_joins_to_the_whole_text(client):
    events = streamed(client, "/v1/completions", {**PLAIN, "max_tokens": 100})
    assert "".join(e["choices"][0]["text"] for e in events) == SCRIPT
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_default_completion_has_sixteen_tokens(client):
    assert client.post("/v1/completions", json=PLAIN).json()["usage"]["completion_tokens"] == 16


def test_tokenize_and_detokenize_are_inverse(client):
    reply = client.post("/tokenize", json={"prompt": SCRIPT}).json()
    assert reply["tokens"] == list(SCRIPT.encode())
    assert reply["count"] == len(reply["tokens"])
    assert client.post("/detokenize", json={"tokens": reply["tokens"]}).json() == {"prompt": SCRIPT}


def test_model_without_tokenizer_reads_ids_only():
    llm = FakeLLM(tokenizer=False)
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        ids = {"model": NAME, "prompt": [1, 2], "max_tokens": 3}
        assert client.post("/v1/completions", json=ids).status_code == 200
        refused = [
            client.post("/v1/completions", json=PLAIN),
            client.post("/v1/chat/completions", json=CHAT),
            client.post("/tokenize", json={"prompt": "a"}),
            client.post("/v1/completions", json={**ids, "stop": "x"}),
        ]
    assert [r.json()["error"]["param"] for r in refused] == ["prompt", "messages", "prompt", "stop"]
    assert all("no tokenizer" in r.json()["error"]["message"] for r in refused)


def test_whole_numbers_may_have_a_point_and_minus_one_is_the_rest(client, llm):
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", PLAIN)):
        client.post(path, json={**body, "max_tokens": 3.0, "top_k": 5.0})
        assert (llm.params[-1].max_tokens, llm.params[-1].top_k) == (3, 5)
        for most in (-1, 2**63):
            assert client.post(path, json={**body, "max_tokens": most}).status_code == 200
            assert llm.params[-1].max_tokens > 150
    assert client.post("/v1/completions", json={**PLAIN, "prompt": [65.0]}).status_code == 200
    assert client.post("/v1/completions", json={**PLAIN, "best_of": 2, "n": 2}).status_code == 200


def test_last_message_of_the_assistant_is_continued(client):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so, "}]
    for extra in ({}, {"add_generation_prompt": False}):
        body = {"messages": messages, "continue_final_message": True, **extra}
        tokens = client.post("/tokenize", json=body).json()["tokens"]
        assert bytes(tokens).decode() == "<user>hi<assistant>so, "
        reply = client.post("/v1/chat/completions", json={**CHAT, **body})
        assert reply.json()["usage"]["prompt_tokens"] == len(tokens)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, {}),
        ({"chat_template_kwargs": {}}, {}),
        ({"chat_template_kwargs": {"thinking": True}}, {"enable_thinking": True, "thinking": True}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"},
            {"enable_thinking": False, "thinking": False},
        ),
        ({"reasoning_effort": "low"}, {"enable_thinking": True, "thinking": True}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False, "thinking": False}),
    ],
)
def test_thinking_reaches_the_template(client, llm, asked, wanted):
    assert client.post("/v1/chat/completions", json={**CHAT, **asked}).status_code == 200
    assert llm.variables == wanted


def test_requests_go_before_the_defaults_of_the_model(client, llm):
    llm.sampling_defaults = {"temperature": 0.5, "top_k": 7}
    client.post("/v1/chat/completions", json={**CHAT, "top_k": 3})
    assert (llm.params[-1].temperature, llm.params[-1].top_k) == (0.5, 3)
    client.post("/v1/completions", json={**PLAIN, "temperature": 0})
    assert (llm.params[-1].temperature, llm.params[-1].top_k) == (0.0, 7)
