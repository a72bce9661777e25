"""`/v1/messages` in the app."""

from __future__ import annotations

import json

import pytest
from fake_llm import NAME, SCRIPT, FakeLLM
from fastapi.testclient import TestClient
from http_replies import JSON, judge, named_events, refusal

from ling.data.assistant import AssistantParser
from ling.errors import RunError
from ling.outputs import StreamChunk
from ling.serve.app import create_app
from ling.serve.messages_shape import MessagesShape
from ling.serve.schema.messages import MessagesRequest
from ling.serve.stream import usage_of
from ling.serve.turn import Turn

HI = {"role": "user", "content": "hi"}
ASK = {"model": NAME, "messages": [HI], "max_tokens": 100}
TOOL = {
    "name": "f",
    "description": "does it",
    "input_schema": {"type": "object", "properties": {"b": {}, "a": {}}},
}


def asked(**fields):
    return MessagesRequest.model_validate({**ASK, **fields}).conversation()


def test_a_message_is_answered_whole(client):
    reply = client.post("/v1/messages", json=ASK)
    assert reply.status_code == 200, reply.text
    message = reply.json()
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", NAME)
    assert message["content"] == [{"type": "text", "text": SCRIPT, "citations": None}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)
    assert message["usage"]["input_tokens"] == len("<user>hi<assistant>")
    assert message["usage"]["output_tokens"] == len(SCRIPT.encode())


def test_cached_tokens_are_counted_apart(client, llm):
    llm.num_cached_tokens = 5
    usage = client.post("/v1/messages", json=ASK).json()["usage"]
    assert usage["cache_read_input_tokens"] == 5
    assert usage["input_tokens"] == len("<user>hi<assistant>") - 5
    start, *_, end, _ = named_events(client, "/v1/messages", ASK)
    for told in (start["message"]["usage"], end["usage"]):
        assert (told["input_tokens"], told["cache_read_input_tokens"]) == (usage["input_tokens"], 5)


def test_a_stream_adds_up_to_the_whole_message(client):
    whole = client.post("/v1/messages", json=ASK).json()
    events = named_events(client, "/v1/messages", ASK)
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    text = "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"]
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"] == whole["usage"]


def test_a_limit_ends_a_message(client, llm):
    message = client.post("/v1/messages", json={**ASK, "max_tokens": 3}).json()
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("max_tokens", 3)
    assert llm.params[-1].max_tokens == 3


def test_silence_is_filled_with_pings():
    app = create_app(FakeLLM(step_s=0.1), served_model_name=NAME, keep_alive_s=0.02)
    with TestClient(app) as client:
        body = {**ASK, "stream": True, "max_tokens": 2}
        text = client.post("/v1/messages", json=body).text
    assert 'event: ping\ndata: {"type":"ping"}\n\n' in text


def test_a_failure_in_a_stream_is_an_error_event():
    llm = FakeLLM(step_s=0.05)
    llm.error, llm.error_after = RunError("secret"), 2
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        events = named_events(client, "/v1/messages", ASK)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    assert "secret" not in json.dumps(events)


def test_tokens_are_counted_as_the_prompt_has_them(client):
    body = {k: v for k, v in ASK.items() if k != "max_tokens"}
    body |= {"system": "rules", "tools": [TOOL]}
    counted = client.post("/v1/messages/count_tokens", json=body)
    assert counted.status_code == 200, counted.text
    usage = client.post("/v1/messages", json={**ASK, **body}).json()["usage"]
    assert counted.json() == {"input_tokens": usage["input_tokens"]}


# ---- from messages to a conversation -----------------------------------------------------------


def test_blocks_become_the_messages_of_a_chat():
    text = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    made = asked(
        system=[text, {"type": "text", "text": "b"}],
        messages=[
            {"role": "user", "content": [text, {"type": "text", "text": "b"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "so"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"b": 1, "a": "ü"}},
                    {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "content": [text],
                        "is_error": True,
                    },
                    {"type": "tool_result", "tool_use_id": "t3"},
                    {"type": "text", "text": "go on"},
                ],
            },
            {"role": "system", "content": "be brief"},
        ],
    )
    assert made.messages == [
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "so",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"b": 1, "a": "ü"}'},
                },
                {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "one", "name": "f"},
        {"role": "tool", "tool_call_id": "t2", "content": "a", "name": "g"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {"role": "user", "content": "go on"},
        {"role": "system", "content": "be brief"},
    ]
    assert not made.continue_final_message


def test_an_answer_that_has_begun_is_continued(client):
    begun = [HI, {"role": "assistant", "content": "so, "}]
    assert asked(messages=begun).continue_final_message
    reply = client.post("/v1/messages", json={**ASK, "messages": begun})
    assert reply.json()["usage"]["input_tokens"] == len("<user>hi<assistant>so, ")


def test_an_answer_of_ours_can_be_given_back(client):
    first = client.post("/v1/messages", json=ASK).json()
    history = [HI, {"role": "assistant", "content": first["content"]}, HI]
    reply = client.post("/v1/messages", json={**ASK, "messages": history})
    assert reply.status_code == 200, reply.text
    prompt = f"<user>hi<assistant>{SCRIPT}<user>hi<assistant>"
    assert reply.json()["usage"]["input_tokens"] == len(prompt.encode())


def test_tools_reach_the_template_in_the_form_of_chats():
    made = asked(tools=[TOOL, {**TOOL, "name": "g", "type": "custom"}])
    function = {"name": "f", "description": "does it", "parameters": TOOL["input_schema"]}
    assert made.tools == [
        {"type": "function", "function": function},
        {"type": "function", "function": {**function, "name": "g"}},
    ]
    assert list(made.tools[0]["function"]["parameters"]["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, "f"),
    ],
)
def test_choice_of_tools(choice, wanted):
    made = asked(tools=[TOOL], tool_choice=choice)
    assert getattr(made.tool_choice, "name", made.tool_choice) == wanted
    assert made.parallel_tool_calls
    if choice is not None and choice["type"] != "none":
        alone = {**choice, "disable_parallel_tool_use": True}
        assert not asked(tools=[TOOL], tool_choice=alone).parallel_tool_calls


def test_other_options_reach_the_conversation(client, llm):
    assert asked().template_options == {}
    thinking = asked(thinking={"type": "enabled", "budget_tokens": 2000})
    assert (thinking.template_options["thinking"], thinking.thinking_budget) == (True, 2000)
    assert asked(thinking={"type": "adaptive"}).template_options["enable_thinking"] is True
    assert asked(thinking={"type": "disabled"}).template_options["thinking"] is False
    fields = {"temperature": 0.25, "top_k": 3, "top_p": 0.5, "stop_sequences": ["q", "z"]}
    client.post("/v1/messages", json={**ASK, **fields})
    used = llm.params[-1]
    assert (used.temperature, used.top_k, used.top_p) == (0.25, 3, 0.5)
    assert list(used.stop) == ["q", "z"]


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("max_tokens", {"max_tokens": None}),
        ("max_tokens", {"max_tokens": 0}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "hi"}),
        ("messages", {"messages": [{**HI, "content": [{"type": "text", "text": ""}] * 16_384}]}),
        ("messages[0]", {"messages": [{"role": "wizard", "content": "x"}]}),
        ("messages[0].content", {"messages": [{"role": "user"}]}),
        ("messages[0].content[0].text", {"messages": [{"role": "user", "content": "\ud800"}]}),
        (
            "messages[0].content[0]",
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        ),
        (
            "messages[0].content[0]",
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
        ),
        (
            "messages[0].content[0].content[0]",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "t",
                                "content": [{"type": "image"}],
                            }
                        ],
                    }
                ]
            },
        ),
        (
            "messages[0].content[0].input",
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "t", "name": "f", "input": "x"}],
                    }
                ]
            },
        ),
        ("system", {"system": 5}),
        ("tools[0]", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        ("tools[0]", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        ("tools[0].input_schema", {"tools": [{"name": "f"}]}),
        ("tools", {"tools": [TOOL] * 2}),
        ("tool_choice", {"tool_choice": {"type": "any"}}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "maybe"}}),
        ("mcp_servers", {"mcp_servers": [{"type": "url", "url": "x"}]}),
        ("container", {"container": "c"}),
        ("stop_sequences", {"stop_sequences": ["x"] * 17}),
        ("stop_sequences[0]", {"stop_sequences": [""]}),
        ("temperature", {"temperature": 5}),
        ("thinking.type", {"thinking": {"type": "sometimes"}}),
        ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": -1}}),
        ("output_config.format.schema", {"output_config": {"format": {"type": "json_schema"}}}),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, param, fields):
    error = refusal(
        client.post("/v1/messages", content=json.dumps({**ASK, **fields}), headers=JSON)
    )
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    # A schema says nothing of names, of what text is, of sums.
    if not any(told in error["message"] for told in ("not among", "surrogate", "more than")):
        assert not judge("MessagesRequest").is_valid({**ASK, **fields})


def test_every_failure_has_anthropics_shape(client):
    missing = client.post("/v1/messages", json={**ASK, "model": "other"})
    assert missing.status_code == 404
    assert refusal(missing, 404)["type"] == "not_found_error"
    long = client.post("/v1/messages", json={**ASK, "messages": [{**HI, "content": "x" * 300}]})
    assert "context" in refusal(long)["message"]
    for reply, status in (
        (client.post("/v1/messages", content="{", headers=JSON), 400),
        (client.post("/v1/messages", content="{}"), 415),
        (client.get("/v1/messages"), 405),
        (client.post("/v1/messages/none", json={}), 404),
        (client.post("/v1/messages", content=b"x" * (9 << 20), headers=JSON), 413),
    ):
        refusal(reply, status)
    assert "type" not in client.get("/v1/messagesx").json()


def test_a_key_is_asked_for_in_anthropics_shape(llm):
    with TestClient(create_app(llm, served_model_name=NAME, api_key="key")) as client:
        assert refusal(client.post("/v1/messages", json=ASK), 401)["type"] == "authentication_error"
        for name, value in (("Authorization", "Bearer key"), ("x-api-key", "key")):
            headers = {name: value, "anthropic-version": "2023-06-01"}
            assert client.post("/v1/messages", json=ASK, headers=headers).status_code == 200


def test_requests_that_ask_for_nothing_special_are_served(client):
    harmless = {
        "metadata": {"user_id": "me"},
        "mcp_servers": [],
        "service_tier": "auto",
        "output_config": {"effort": "low"},
        "context_management": {"edits": []},
        "tools": [],
        "stop_sequences": [],
        "something_new": 1,
    }
    assert client.post("/v1/messages", json={**ASK, **harmless}).status_code == 200
    assert judge("MessagesRequest").is_valid({**ASK, **harmless})


# ---- the whole reply is what a stream adds up to -----------------------------------------------

ANSWER = """<think>
hm
</think>

I look.
<tool_call>
{"name": "f", "arguments": {"a": "ü </tool_call>", "b": 1.50}}
</tool_call>"""


def test_no_cut_of_an_answer_changes_the_message():
    whole = outcome([ANSWER])
    thinking, text, use = whole["content"]
    assert (thinking["type"], text["text"]) == ("thinking", "I look.")
    assert use["input"] == {"a": "ü </tool_call>", "b": 1.5}
    for at in range(1, len(ANSWER), 3):
        assert outcome([ANSWER[:at], ANSWER[at:]]) == whole
    assert outcome(list(ANSWER)) == whole


def outcome(pieces) -> dict:
    """The message of an answer in pieces."""
    turn = Turn(AssistantParser(parse_tools=True, reasoning="auto"))
    shape = MessagesShape(NAME, turn)
    *begun, last = pieces
    for piece in begun:
        shape.step(0, StreamChunk(piece))
    message = shape.whole([StreamChunk(last, finish_reason="stop")], usage_of(1, 2)).model_dump()
    blocks = [{k: v for k, v in b.items() if k != "id"} for b in message["content"]]
    return {**message, "id": None, "content": blocks}
