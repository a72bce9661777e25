"""The order of events, and that they add up to the whole message."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ling.data.assistant import (
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from ling.serve.messages_events import MessageEvents
from ling.serve.schema.messages_reply import MessageReply, MessagesUsage

START = MessagesUsage(input_tokens=5, output_tokens=1)
USAGE = MessagesUsage(input_tokens=5, output_tokens=9, cache_read_input_tokens=2)


def told(said, is_cut=False, stop_sequence=None) -> tuple[list[dict], dict]:
    """All events as JSON would have them, and the message."""
    made = MessageEvents(MessageReply(id="msg_1", model="m", usage=START))
    events = [made.begin()]
    for piece in said:
        events += made.add(piece)
    events += made.finish(is_cut=is_cut, stop_sequence=stop_sequence, usage=USAGE)
    return [plain(e) for e in events], made.message.model_dump()


def plain(event) -> dict:
    return {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in event.items()}


def call(index, name, *pieces, is_whole=True):
    arguments = [ToolCallArguments(index, piece) for piece in pieces]
    return [ToolCallStart(index, name), *arguments, ToolCallEnd(index, is_whole)]


def folded(events) -> dict:
    """The message that a client puts together from its events, as Anthropic's clients do."""
    message = copy.deepcopy(events[0]["message"])
    blocks, arguments = message["content"], ""
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(copy.deepcopy(event["content_block"]))
            arguments = ""
            continue
        assert event["index"] == len(blocks) - 1
        if event["type"] == "content_block_stop":
            if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = json.loads(arguments)
            continue
        delta = event["delta"]
        match delta["type"]:
            case "text_delta":
                blocks[-1]["text"] += delta["text"]
            case "thinking_delta":
                blocks[-1]["thinking"] += delta["thinking"]
            case "input_json_delta":
                arguments += delta["partial_json"]
    return {**message, **events[-2]["delta"], "usage": events[-2]["usage"]}


def test_an_answer_with_thinking_and_a_call_comes_in_anthropics_order():
    said = [ReasoningDelta("hm"), ContentDelta("so"), *call(0, "f", '{"a"', ": 1.50}")]
    events, message = told(said)
    assert [(e["type"], e.get("index")) for e in events] == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert events[0]["message"]["content"] == []
    assert events[7]["content_block"]["input"] == {}
    thinking, text, use = message["content"]
    assert (thinking["thinking"], text["text"]) == ("hm", "so")
    assert (use["name"], use["input"]) == ("f", {"a": 1.5})
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == USAGE.model_dump()


@pytest.mark.parametrize(
    ("said", "ending", "reason"),
    [
        ([ContentDelta("a")], {}, "end_turn"),
        ([ContentDelta("a")], {"is_cut": True}, "max_tokens"),
        ([ContentDelta("a")], {"stop_sequence": "x"}, "stop_sequence"),
        (call(0, "f", "{}"), {}, "tool_use"),
        (call(0, "f", '{"a', is_whole=False), {"is_cut": True}, "max_tokens"),
        (call(0, "f", '{"a', is_whole=False), {}, "end_turn"),
        (call(0, "f", "{}") + call(1, "g", '{"a', is_whole=False), {}, "end_turn"),
    ],
)
def test_why_a_message_ended(said, ending, reason):
    _, message = told(said, **ending)
    assert message["stop_reason"] == reason
    assert message["stop_sequence"] == ending.get("stop_sequence")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ('{"a": 1, "b": [2, 3', {"a": 1, "b": [2, 3]}),
        ('{"a": "x', {}),
        ("", {}),
        ("[1]", {}),
        ("{]", {}),
    ],
)
def test_of_a_call_that_was_cut_is_told_what_could_be_read(arguments, wanted):
    _, message = told(call(0, "f", arguments, is_whole=False), is_cut=True)
    assert message["content"][0]["input"] == wanted


@pytest.mark.parametrize("said", [[], [ReasoningDelta("hm")]], ids=["nothing", "thinking"])
def test_there_is_always_text_or_a_call(said):
    _, message = told(said)
    assert message["content"][-1] == {"type": "text", "text": "", "citations": None}


texts = st.text(max_size=4)
objects = st.dictionaries(texts, st.integers() | texts | st.none(), max_size=2).map(json.dumps)
pieces = st.lists(
    st.builds(ContentDelta, texts) | st.builds(ReasoningDelta, texts) | st.tuples(texts, objects)
)


@settings(max_examples=40, deadline=None)
@given(pieces, st.data())
def test_the_events_add_up_to_the_whole_message(given_pieces, data):
    said, count = [], 0
    for piece in given_pieces:
        if isinstance(piece, tuple):
            name, arguments = piece
            cut = data.draw(st.integers(0, len(arguments)))
            said += call(count, name, arguments[:cut], arguments[cut:])
            count += 1
        else:
            said.append(piece)
    events, message = told(said)
    assert folded(events) == message
    assert (message["stop_reason"] == "tool_use") == bool(count)
