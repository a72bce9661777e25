"""The inverse of the chat template: what the assistant wrote, as reasoning, content and calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .assistant_events import (
    AssistantEvent,
    ContentDelta,
    ReasoningDelta,
    ToolCall,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    ToolEvent,
)
from .reasoning import ReasoningMode, ReasoningSplitter
from .tool_calls import ToolCallParser

__all__ = [
    "AssistantEvent",
    "AssistantMessage",
    "AssistantParser",
    "ContentDelta",
    "ReasoningDelta",
    "ToolCall",
    "ToolCallArguments",
    "ToolCallEnd",
    "ToolCallStart",
    "fold",
    "parse_assistant",
]


@dataclass(slots=True)
class AssistantMessage:
    """A whole reply; None where it has no such part."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)


class AssistantParser:
    """Events of one reply that comes in pieces; the same for every way of cutting it.

    Joined, the deltas of one kind (of one call) do not depend on the cuts. Text inside the
    reasoning is never a call. `parse_tools=False` leaves calls in the content.
    """

    def __init__(self, *, parse_tools: bool, reasoning: ReasoningMode) -> None:
        self._reasoning = ReasoningSplitter(reasoning)
        self._tools = ToolCallParser() if parse_tools else None
        self.num_whole_calls = 0

    def push(self, text: str) -> list[AssistantEvent]:
        """The events that `text` completes."""
        return self._events(*self._reasoning.push(text))

    def finish(self) -> list[AssistantEvent]:
        """The last events; nothing may be pushed afterwards."""
        events = self._events(*self._reasoning.finish())
        return events + self._counted(self._tools.finish() if self._tools else [])

    def _events(self, reasoning: str, rest: str) -> list[AssistantEvent]:
        events: list[AssistantEvent] = [ReasoningDelta(reasoning)] if reasoning else []
        if rest:
            events += self._counted(self._tools.push(rest) if self._tools else [ContentDelta(rest)])
        return events

    def _counted(self, events: list[ToolEvent]) -> list[ToolEvent]:
        self.num_whole_calls += sum(isinstance(e, ToolCallEnd) and e.is_whole for e in events)
        return events


def parse_assistant(text: str, *, parse_tools: bool, reasoning: ReasoningMode) -> AssistantMessage:
    """The message that a whole reply makes: what its events add up to."""
    parser = AssistantParser(parse_tools=parse_tools, reasoning=reasoning)
    return fold([*parser.push(text), *parser.finish()])


def fold(events: Iterable[AssistantEvent]) -> AssistantMessage:
    """The message that the events of a reply add up to."""
    reasoning: list[str] = []
    content: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    are_whole: list[bool] = []
    for event in events:
        if isinstance(event, ReasoningDelta):
            reasoning.append(event.text)
        elif isinstance(event, ContentDelta):
            content.append(event.text)
        elif isinstance(event, ToolCallStart):
            calls.append((event.name, []))
        elif isinstance(event, ToolCallArguments):
            calls[event.index][1].append(event.text)
        else:
            are_whole.append(event.is_whole)
    return AssistantMessage(
        "".join(content) or None,
        "".join(reasoning) or None,
        [
            ToolCall(name, "".join(arguments), is_whole)
            for (name, arguments), is_whole in zip(calls, are_whole, strict=True)
        ],
    )
