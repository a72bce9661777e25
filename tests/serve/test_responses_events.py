"""The order of events, and that they add up to the whole response."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from ling.data.assistant import (
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from ling.serve.responses_events import ResponseEvents
from ling.serve.schema.responses_reply import (
    InputTokens,
    OutputTokens,
    ResponseError,
    ResponseReply,
    ResponsesUsage,
)

EVENT = TypeAdapter(ResponseStreamEvent)
USAGE = ResponsesUsage(
    input_tokens=1,
    input_tokens_details=InputTokens(),
    output_tokens=2,
    output_tokens_details=OutputTokens(),
    total_tokens=3,
)


def opened() -> ResponseReply:
    return ResponseReply(
        id="resp_1",
        created_at=1,
        instructions=None,
        max_output_tokens=None,
        max_tool_calls=None,
        metadata={},
        model="m",
        parallel_tool_calls=True,
        reasoning={},
        temperature=1.0,
        text={"format": {"type": "text"}},
        tool_choice="auto",
        tools=[],
        top_p=1.0,
        user=None,
    )


def told(said, **ending) -> tuple[list, ResponseReply]:
    """All events as JSON would have them, each checked by OpenAI's types, and the response."""
    made = ResponseEvents(opened())
    events = [*made.begin()]
    for piece in said:
        events += made.add(piece)
    events += made.finish(**{"is_cut": False, "usage": USAGE, **ending})
    return [plain(e) for e in events], made.response


def plain(event) -> dict:
    whole = {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in event.items()}
    return EVENT.validate_python(whole, strict=True).to_dict(mode="json")


def call(index, name, *pieces, is_whole=True):
    arguments = [ToolCallArguments(index, piece) for piece in pieces]
    return [ToolCallStart(index, name), *arguments, ToolCallEnd(index, is_whole)]


def folded(events) -> dict:
    """The response that a client puts together from the events in between alone."""
    response = copy.deepcopy(events[0]["response"])
    for event in events[2:-1]:
        items, kind = response["output"], event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(copy.deepcopy(event["item"]))
            continue
        item = items[event["output_index"]]
        assert item["id"] == event.get("item_id", item["id"])
        if kind == "content_part.added":
            item["content"].append(copy.deepcopy(event["part"]))
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            item["content"][event["content_index"]]["text"] += event["delta"]
        elif kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind in ("output_text.done", "reasoning_text.done"):
            assert item["content"][event["content_index"]]["text"] == event["text"]
        elif kind == "content_part.done":
            assert item["content"][event["content_index"]] == event["part"]
        elif kind == "function_call_arguments.done":
            assert (item["name"], item["arguments"]) == (event["name"], event["arguments"])
        else:
            assert kind == "output_item.done"
            assert {**item, "status": event["item"]["status"]} == event["item"]
            item["status"] = event["item"]["status"]
    return response


def test_an_answer_with_reasoning_and_a_call_comes_in_openais_order():
    said = [
        ReasoningDelta("hm"),
        ReasoningDelta("m"),
        ContentDelta("so "),
        ContentDelta("this"),
        *call(0, "f", '{"a"', ": 1}"),
    ]
    events, response = told(said)
    assert [e["type"].removeprefix("response.") for e in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    reasoning, message, made = response.output
    assert reasoning.content[0].text == "hmm"
    assert message.content[0].text == "so this"
    assert (made.name, made.arguments, made.status) == ("f", '{"a": 1}', "completed")
    assert response.usage == USAGE


def test_two_calls_are_two_items_with_names_of_their_own():
    _, response = told([*call(0, "f", "{}"), *call(1, "f", "{}")])
    first, second = response.output
    assert first.call_id != second.call_id
    assert first.id != second.id


def test_text_behind_a_call_is_a_message_of_its_own():
    _, response = told([ContentDelta("a"), *call(0, "f", "{}"), ContentDelta("b")])
    assert [item.type for item in response.output] == ["message", "function_call", "message"]


def test_a_cut_answer_is_incomplete_and_so_is_its_last_item():
    events, response = told([ContentDelta("a")], is_cut=True)
    assert events[-1]["type"] == "response.incomplete"
    assert response.status == response.output[-1].status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    _, response = told(call(0, "f", '{"a', is_whole=False), is_cut=True)
    assert response.output[-1].status == "incomplete"


@pytest.mark.parametrize("said", [[], [ReasoningDelta("hm")]], ids=["nothing", "reasoning"])
def test_there_is_always_a_message_or_a_call(said):
    _, response = told(said)
    assert response.output[-1].type == "message"
    assert response.output[-1].content[0].text == ""


def test_a_failure_is_an_error_and_a_failed_response():
    made = ResponseEvents(opened())
    events = [*made.begin(), *made.add(ContentDelta("a"))]
    failed = made.fail(ResponseError(code="server_error", message="broke"), "p")
    events = [plain(e) for e in [*events, *failed]]
    error, last = events[-2:]
    assert (error["type"], error["code"], error["message"]) == ("error", "server_error", "broke")
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["message"] == "broke"
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


texts = st.text(max_size=4)
calls = st.builds(
    lambda name, pieces, whole: (name, pieces, whole), texts, st.lists(texts), st.booleans()
)
pieces = st.lists(st.builds(ContentDelta, texts) | st.builds(ReasoningDelta, texts) | calls)


@settings(max_examples=40, deadline=None)
@given(pieces, st.booleans())
def test_the_events_add_up_to_the_whole_response(given_pieces, is_cut):
    said, count = [], 0
    for piece in given_pieces:
        if isinstance(piece, tuple):
            name, arguments, is_whole = piece
            said += call(count, name, *arguments, is_whole=is_whole)
            count += 1
        else:
            said.append(piece)
    events, response = told(said, is_cut=is_cut)
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    whole = Response.model_validate(response.model_dump(), strict=True).to_dict(mode="json")
    assert folded(events)["output"] == whole["output"]
    assert events[-1]["response"] == whole
    said_text = "".join(p.text for p in said if isinstance(p, ContentDelta))
    assert Response.model_validate(response.model_dump()).output_text == said_text
