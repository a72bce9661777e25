"""`/v1/responses` in the app."""

from __future__ import annotations

import json

import pytest
from fake_llm import NAME, SCRIPT, FakeLLM
from fastapi.testclient import TestClient
from http_replies import judge, named_events, problem
from openai.types.responses import Response

from ling.data.assistant import AssistantParser
from ling.errors import RunError
from ling.outputs import StreamChunk
from ling.serve.app import create_app
from ling.serve.responses_shape import ResponsesShape
from ling.serve.schema.responses import ResponsesRequest
from ling.serve.stream import usage_of
from ling.serve.turn import Turn

ASK = {"model": NAME, "input": "hi"}
ANSWER = """<think>
hm
</think>

I look.
<tool_call>
{"name": "f", "arguments": {"a": "ü </tool_call>", "b": 1.50}}
</tool_call>
<tool_call>
{"name": "g", "arguments": {}}
</tool_call>"""
TOOL = {
    "type": "function",
    "name": "f",
    "description": "does it",
    "parameters": {"type": "object", "properties": {"b": {}, "a": {}}},
}


def transcript(**fields):
    return ResponsesRequest.model_validate({**ASK, **fields}).conversation()


def test_a_text_is_answered_whole(client):
    reply = client.post("/v1/responses", json={**ASK, "user": "me", "metadata": {"a": "b"}})
    assert reply.status_code == 200, reply.text
    response = Response.model_validate(reply.json(), strict=True)
    assert (response.status, response.output_text, response.model) == ("completed", SCRIPT, NAME)
    assert (response.user, response.metadata, reply.json()["store"]) == ("me", {"a": "b"}, False)
    assert response.usage.input_tokens == len("<user>hi<assistant>")
    assert response.usage.output_tokens == len(SCRIPT.encode())


def test_a_stream_ends_in_what_a_whole_reply_would_be(client, llm):
    whole = client.post("/v1/responses", json=ASK).json()
    events = named_events(client, "/v1/responses", ASK)
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    last = events[-1]["response"]
    assert events[-1]["type"] == "response.completed"
    assert last["output"][0]["content"] == whole["output"][0]["content"]
    same = set(whole) - {"id", "output", "created_at", "completed_at"}
    assert {k: last[k] for k in same} == {k: whole[k] for k in same}
    assert last["id"] == events[0]["response"]["id"]


def test_a_limit_makes_the_response_incomplete(client, llm):
    response = client.post("/v1/responses", json={**ASK, "max_output_tokens": 3}).json()
    assert (response["status"], response["output"][0]["status"]) == ("incomplete",) * 2
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert llm.params[-1].max_tokens == 3
    events = named_events(client, "/v1/responses", {**ASK, "max_output_tokens": 3})
    assert events[-1]["type"] == "response.incomplete"


def test_what_was_used_is_told(llm):
    llm.sampling_defaults = {"temperature": 0.5}
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        body = {**ASK, "top_p": 0.5, "tools": [TOOL], "instructions": "be brief", "seed": 3}
        body["text"] = {"verbosity": "low"}
        response = client.post("/v1/responses", json=body).json()
    Response.model_validate(response, strict=True)
    assert (response["temperature"], response["top_p"]) == (0.5, 0.5)
    assert response["tools"] == [{**TOOL, "strict": None}]
    assert (response["tool_choice"], response["parallel_tool_calls"]) == ("auto", True)
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert response["instructions"] == "be brief"
    assert llm.params[-1].seed == 3


def test_a_failure_in_a_stream_ends_it():
    llm = FakeLLM(step_s=0.05)
    llm.error, llm.error_after = RunError("secret"), 2
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        events = named_events(client, "/v1/responses", ASK)
    assert [e["type"] for e in events[-2:]] == ["error", "response.failed"]
    failed = events[-1]["response"]
    Response.model_validate(failed, strict=True)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert "secret" not in json.dumps(events)


def test_silence_is_filled_with_comments():
    app = create_app(FakeLLM(step_s=0.1), served_model_name=NAME, keep_alive_s=0.02)
    with TestClient(app) as client:
        body = {**ASK, "stream": True, "max_output_tokens": 2}
        assert ": keep-alive\n\n" in client.post("/v1/responses", json=body).text


def test_any_text_and_any_tool_survive_the_event_stream():
    script = 'a\u2028b\x85c\u2029d " \\ \x00\r\n'
    with TestClient(create_app(FakeLLM(script), served_model_name=NAME)) as client:
        odd = {**TOOL, "description": script}
        with client.stream(
            "POST", "/v1/responses", json={**ASK, "stream": True, "tools": [odd]}
        ) as r:
            lines = [line[6:] for line in r.iter_lines() if line.startswith("data: ")]
    last = json.loads(lines[-1])["response"]
    assert last["output"][0]["content"][0]["text"] == script
    assert last["tools"][0]["description"] == script


# ---- from input to messages --------------------------------------------------------------------


def test_items_become_the_messages_of_a_chat():
    asked = transcript(
        instructions="rules",
        input=[
            {"role": "developer", "content": "more rules"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "hm"}],
            },
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "so", "annotations": []}],
            },
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x":1.0}'},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [
                    {"type": "input_text", "text": "t"},
                    {"type": "input_text", "text": "wo"},
                ],
            },
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "sum"}]},
            {"role": "assistant", "content": "done"},
        ],
    )
    assert asked.messages == [
        {"role": "system", "content": "rules"},
        {"role": "system", "content": "more rules"},
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "so",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"x":1.0}'},
                },
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one", "name": "f"},
        {"role": "tool", "tool_call_id": "c2", "content": "two", "name": "g"},
        {"role": "assistant", "content": "done", "reasoning_content": "sum"},
    ]


def test_an_answer_of_ours_can_be_given_back(client):
    first = client.post("/v1/responses", json=ASK).json()
    history = [
        {"role": "user", "content": "hi"},
        *first["output"],
        {"role": "user", "content": "b"},
    ]
    reply = client.post("/v1/responses", json={**ASK, "input": history})
    assert reply.status_code == 200, reply.text
    prompt = f"<user>hi<assistant>{SCRIPT}<user>b<assistant>"
    assert reply.json()["usage"]["input_tokens"] == len(prompt.encode())


def test_tools_reach_the_template_in_the_form_of_chats():
    asked = transcript(tools=[{**TOOL, "strict": None}, {**TOOL, "name": "g", "strict": True}])
    function = {"name": "f", "description": "does it", "parameters": TOOL["parameters"]}
    assert asked.tools == [
        {"type": "function", "function": function},
        {"type": "function", "function": {**function, "name": "g"}},
    ]
    assert [t["function"].get("strict") for t in asked.callable_tools] == [None, True]
    assert list(asked.tools[0]["function"]) == ["name", "description", "parameters"]


ONLY_G = {
    "type": "allowed_tools",
    "mode": "required",
    "tools": [{"type": "function", "name": "g"}],
}


@pytest.mark.parametrize(
    ("choice", "wanted", "names"),
    [
        (None, "auto", "fg"),
        ("none", "none", "fg"),
        ("auto", "auto", "fg"),
        ("required", "required", "fg"),
        ({"type": "function", "name": "g"}, "g", "g"),
        (ONLY_G, "required", "g"),
    ],
)
def test_choice_of_tools(choice, wanted, names):
    asked = transcript(tools=[TOOL, {**TOOL, "name": "g"}], tool_choice=choice)
    assert getattr(asked.tool_choice, "name", asked.tool_choice) == wanted
    assert [t["function"]["name"] for t in asked.callable_tools] == list(names)
    assert len(asked.tools) == 2


def test_other_options_reach_the_conversation():
    assert transcript().template_options == {}
    assert transcript(reasoning={"effort": "low"}).template_options["enable_thinking"] is True
    assert transcript(reasoning={"effort": "none"}).template_options["thinking"] is False
    assert transcript(reasoning={"summary": "auto"}).template_options == {}
    assert transcript(thinking_budget=5).thinking_budget == 5
    assert transcript(parallel_tool_calls=False).parallel_tool_calls is False
    assert transcript(max_output_tokens=-1).max_tokens == -1
    assert transcript(min_p=0.1, seed=4, cache_salt="x").sampling.min_p == 0.1


# ---- refusals ----------------------------------------------------------------------------------

MESSAGE = {"role": "user", "content": "x"}
MANY = {"role": "user", "content": [{"type": "input_text", "text": ""}] * 16_384}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("previous_response_id", {"previous_response_id": "resp_1"}),
        ("conversation", {"conversation": "conv_1"}),
        ("prompt", {"prompt": {"id": "p"}}),
        ("background", {"background": True}),
        ("background", {"background": 0}),
        ("truncation", {"truncation": "auto"}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("include[0]", {"include": ["message.output_text.logprobs"]}),
        ("tools[0]", {"tools": [{"type": "web_search"}]}),
        ("tools[1]", {"tools": [TOOL, {"type": "file_search", "vector_store_ids": ["a"]}]}),
        ("tools[0]", {"tools": [{"type": "custom", "name": "x"}]}),
        ("tools[0].name", {"tools": [{"type": "function"}]}),
        ("tools[0].parameters", {"tools": [{**TOOL, "parameters": {"a": "\ud800"}}]}),
        ("tools", {"tools": [TOOL] * 129}),
        ("tools", {"tools": [TOOL] * 2}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": "sometimes"}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "web_search_preview"}}),
        ("tool_choice", {"tool_choice": 5}),
        ("input", {"input": []}),
        ("input", {"input": 5}),
        ("input", {"input": None}),
        ("input", {"input": [MANY]}),
        ("input[0]", {"input": ["x"]}),
        ("input[0]", {"input": [{"type": "item_reference", "id": "x"}]}),
        ("input[1]", {"input": [MESSAGE, {"type": "web_search_call", "id": "x"}]}),
        ("input[0].role", {"input": [{"role": "wizard", "content": "x"}]}),
        ("input[0].content", {"input": [{"role": "user", "content": None}]}),
        ("input[0].content[0].text", {"input": [{"role": "user", "content": "\ud800"}]}),
        (
            "input[0].content[0]",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        ),
        ("input[0].call_id", {"input": [{"type": "function_call_output", "output": "x"}]}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("temperature", {"temperature": 3}),
        ("metadata.a", {"metadata": {"a": 1}}),
        ("reasoning.effort", {"reasoning": {"effort": "huge"}}),
        ("text.format", {"text": {"format": {"type": "xml"}}}),
        ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "x"}}}),
        ("stream", {"stream": "yes"}),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, param, fields):
    body = json.dumps({**ASK, **fields})
    reply = client.post("/v1/responses", content=body, headers={"Content-Type": "application/json"})
    error = problem(reply, 400)
    assert error["param"] == param
    assert param.partition("[")[0].partition(".")[0] in error["message"]
    # A schema says nothing of names, of what text is, of sums.
    if not any(told in error["message"] for told in ("not among", "surrogate", "more than")):
        assert not judge("ResponsesRequest").is_valid(json.loads(body))


def test_requests_that_ask_for_nothing_special_are_served(client):
    harmless = {
        "store": True,
        "background": False,
        "truncation": "disabled",
        "previous_response_id": None,
        "include": ["reasoning.encrypted_content"],
        "tools": [],
        "tool_choice": "auto",
        "stream_options": {"include_obfuscation": False},
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "max_tool_calls": 3,
        "reasoning": {"effort": None, "summary": "auto"},
        "something_new": {"a": 1},
    }
    assert client.post("/v1/responses", json={**ASK, **harmless}).status_code == 200
    assert judge("ResponsesRequest").is_valid({**ASK, **harmless})


def test_a_prompt_that_does_not_fit_is_blamed_on_the_input(client):
    error = problem(client.post("/v1/responses", json={**ASK, "input": "x" * 300}), 400)
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")


def test_a_stored_response_is_not_found(client):
    problem(client.get("/v1/responses/resp_1"), 404)
    problem(client.get("/v1/responses"), 405)


# ---- the whole reply is what a stream adds up to -----------------------------------------------


def test_no_cut_of_an_answer_changes_the_response():
    body = ResponsesRequest.model_validate({**ASK, "tools": [TOOL]})
    whole = outcome(body, [ANSWER])
    assert [item["type"] for item in whole["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    for at in range(1, len(ANSWER), 3):
        assert outcome(body, [ANSWER[:at], ANSWER[at:]]) == whole
    assert outcome(body, list(ANSWER)) == whole


def outcome(body, pieces) -> dict:
    """The response to an answer in pieces, which must be the one of its last event."""
    turn = Turn(AssistantParser(parse_tools=True, reasoning="auto"))
    shape = ResponsesShape(NAME, body, turn, {})
    events = [*shape.opening(0)]
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        events += shape.step(0, StreamChunk(piece, finish_reason="stop" if last else None))
    events += shape.closing(usage_of(1, 2))
    told = json.loads(shape.line(events[-1], usage_of(1, 2)).split("data: ")[1])["response"]
    named = {"id", "call_id", "created_at", "completed_at"}
    told["output"] = [{k: v for k, v in item.items() if k not in named} for item in told["output"]]
    return {k: v for k, v in told.items() if k not in named}
