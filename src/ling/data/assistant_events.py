"""What an assistant's reply is made of, as events of a stream; reasoning, content, tool calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins; calls of a reply are numbered from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of a call's arguments, in the model's own characters."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """A call has ended. `is_whole`: by its JSON, and its arguments are JSON; else it was cut."""

    index: int
    is_whole: bool


ToolEvent = ContentDelta | ToolCallStart | ToolCallArguments | ToolCallEnd
AssistantEvent = ReasoningDelta | ToolEvent


@dataclass(slots=True)
class ToolCall:
    """A call of a reply; `arguments` are JSON text if it is whole."""

    name: str
    arguments: str
    is_whole: bool = True


class EventWriter:
    """The events of one piece; white space waits until it is known whether a call follows it.

    White space that begins the reply or follows a call is part of the content only if text comes
    next to it; of text before a call, the one newline that the template writes there is not.
    """

    def __init__(self) -> None:
        self.events: list[ToolEvent] = []
        self._texts: list[str] = []  # of one kind, not yet an event
        self._index: int | None = None
        self._waiting: list[str] = []
        self._is_edge, self._has_content = True, False
        self.num_calls = 0

    def content(self, text: str) -> None:
        """Text that is no call."""
        if self._is_edge:
            rest = text.lstrip()
            self._waiting.append(text[: len(text) - len(rest)])
            text = rest
        if not text:
            return
        if self.num_calls and not self._has_content:
            self._waiting.clear()
        end = len(text) - text.endswith("\n")
        self._add(None, "".join([*self._waiting, text[:end]]))
        self._waiting = [text[end:]]
        self._is_edge, self._has_content = False, True

    def start(self, name: str) -> None:
        """A call begins."""
        self._flush()
        self._waiting, self._is_edge = [], True
        self.events.append(ToolCallStart(self.num_calls, name))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        """More arguments of the call that began last."""
        self._add(self.num_calls - 1, text)

    def end(self, is_whole: bool) -> None:
        """That call has ended."""
        self._flush()
        self.events.append(ToolCallEnd(self.num_calls - 1, is_whole))

    def finish(self) -> None:
        """The reply has ended: what was waiting is content, unless it stands behind a call."""
        if not self._is_edge or not self.num_calls:
            self._add(None, "".join(self._waiting))

    def take(self) -> list[ToolEvent]:
        """The events since the last time."""
        self._flush()
        events, self.events = self.events, []
        return events

    def _add(self, index: int | None, text: str) -> None:
        if index != self._index:
            self._flush()
        self._index = index
        self._texts.append(text)

    def _flush(self) -> None:
        text, index = "".join(self._texts), self._index
        self._texts = []
        if text:
            made = ContentDelta(text) if index is None else ToolCallArguments(index, text)
            self.events.append(made)
