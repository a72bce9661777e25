"""How a chat looks in a terminal: who speaks, reasoning dimmed, and no character that acts."""

from __future__ import annotations

import os
import sys

from ..data.assistant import (
    AssistantEvent,
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)
from ..text import terminal_text

_DIM, _PLAIN = "\033[2m", "\033[0m"


class Screen:
    """Writes events of an answer to stdout as they come."""

    def __init__(self) -> None:
        self._has_colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._part = ""

    def show(self, event: AssistantEvent) -> None:
        """Write what is new."""
        match event:
            case ReasoningDelta(text):
                self._write("thinking", text, dim=True)
            case ContentDelta(text):
                self._write("ling", text)
            case ToolCallStart(index, name):
                self._write(f"call {index}", f"{name} ", dim=True)
            case ToolCallArguments(index, text):
                self._write(f"call {index}", text, dim=True)

    def note(self, text: str) -> None:
        """A line of the program's own, in brackets."""
        self.end()
        print(f"[{terminal_text(text)}]", flush=True)

    def message(self, role: str, text: str) -> None:
        """A turn that is over."""
        self.end()
        print(f"{role}> {terminal_text(text)}", flush=True)

    def end(self) -> None:
        """Close the line, if one is open."""
        if self._part:
            print(flush=True)
        self._part = ""

    def _write(self, part: str, text: str, *, dim: bool = False) -> None:
        if part != self._part:
            self.end()
            print(f"{part}> ", end="")
            self._part = part
        text = terminal_text(text)
        if dim and self._has_colours:
            text = f"{_DIM}{text}{_PLAIN}"
        print(text, end="", flush=True)
