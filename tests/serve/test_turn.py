"""What came of a choice, and how it ended."""

from __future__ import annotations

import re

import pytest

from ling.data.assistant import (
    AssistantParser,
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from ling.outputs import StreamChunk
from ling.serve.conversation import ToolName
from ling.serve.turn import Turn, new_id


class Known:
    """A parser whose events are known: one list for each push, the last for the end."""

    def __init__(self, *events):
        self._events = list(events)

    def push(self, text):
        return self._events.pop(0)

    def finish(self):
        return self._events.pop(0)


def called(*ends):
    """Events of calls that end so."""
    events = [ReasoningDelta("why"), ContentDelta("a")]
    for index, is_whole in enumerate(ends):
        events += [ToolCallStart(index, f"f{index}"), ToolCallArguments(index, "{")]
        events += [ToolCallArguments(index, "}"), ToolCallEnd(index, is_whole)]
    return events


def test_a_parser_of_nothing_leaves_all_text_as_content():
    turn = Turn(AssistantParser(parse_tools=False, reasoning="none"))
    assert turn.add(StreamChunk("a")) == [ContentDelta("a")]
    assert turn.add(StreamChunk("", num_cached_tokens=3)) == []
    turn.add(StreamChunk("<think>", finish_reason="stop"))
    assert (turn.content, turn.finish_reason, turn.num_cached_tokens) == ("a<think>", "stop", 0)


def test_a_turn_keeps_what_its_events_said():
    events = called(True, True)
    turn = Turn(Known(events[:4], events[4:], [ContentDelta("b")]))
    assert turn.add(StreamChunk("x")) == events[:4]
    assert turn.finish_reason is None
    assert turn.add(StreamChunk("y", finish_reason="stop")) == [*events[4:], ContentDelta("b")]
    assert (turn.reasoning, turn.content) == ("why", "ab")
    assert [(c.name, c.arguments) for c in turn.calls] == [("f0", "{}"), ("f1", "{}")]
    ids = {c.id for c in turn.calls}
    assert len(ids) == 2
    assert all(re.fullmatch("call_[A-Za-z0-9]{24}", i) for i in ids)


@pytest.mark.parametrize("choice", ["none", "auto", "required", ToolName("f0")], ids=str)
@pytest.mark.parametrize("ends", [(), (True,), (True, True), (True, False), (False,)])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_reason_is_openais(choice, ends, reason):
    turn = Turn(Known(called(*ends), []), choice)
    turn.add(StreamChunk("x", finish_reason=reason))
    named = isinstance(choice, ToolName)
    counts = bool(ends) and all(ends) and reason == "stop" and not named
    assert turn.finish_reason == ("tool_calls" if counts else reason)


def test_ids_differ():
    assert new_id("call_") != new_id("call_")
