"""Tool calls in a reply: as events while it is written, and by the rule for training texts."""

from __future__ import annotations

import json
import re
from collections.abc import Generator

from .assistant_events import EventWriter, ToolCall, ToolEvent
from .json_reader import BrokenJson, JsonReader
from .pieces import Pieces, Reading

OPEN, CLOSE = "<tool_call>", "</tool_call>"

_SPACE = re.compile(r"\s*")
_LANGUAGE = re.compile(r"[A-Za-z]*")
# What models leave between the end of a call and its closing tag: a brace too many, a code fence.
_REST = re.compile(r"[\s}\],`]*")
_NAMES, _ARGUMENTS = ("name", "function"), ("arguments", "parameters")


class ToolCallParser:
    """Content and tool calls of a reply that comes in pieces; never raises, in linear time.

    The events do not depend on where the pieces are cut, but for how texts are divided. A call
    ends where its JSON ends, so a tag inside an argument is data. Before the name is known what
    looks like a call may turn out to be content; after that it stays a call. What becomes of
    broken ones is in `docs/concepts/chat.md`.
    """

    def __init__(self) -> None:
        self._pieces, self._out = Pieces(), EventWriter()
        self._json = JsonReader(self._pieces, self._tag)
        self._reading: Generator[None, None, None] = self._reply()
        self._start_call()
        next(self._reading)

    def push(self, text: str) -> list[ToolEvent]:
        """The events that `text` completes."""
        return self._feed(text, is_last=False)

    def finish(self) -> list[ToolEvent]:
        """The reply has ended: what is left of it. Nothing may be pushed afterwards."""
        return self._feed("", is_last=True)

    def _feed(self, text: str, is_last: bool) -> list[ToolEvent]:
        self._pieces.feed(text, is_last)
        next(self._reading, None)
        return self._out.take()

    # ---- readers -------------------------------------------------------------------------------

    def _reply(self) -> Reading[None]:
        while (yield from self._content()):
            yield from self._calls()
        self._out.finish()

    def _content(self) -> Reading[bool]:
        """Text up to the next opening tag; False when there is none."""
        p = self._pieces
        while True:
            found = p.text.find(OPEN, p.at)
            end = found if found >= 0 else _without_half_tag(p.text, p.at)
            self._out.content(p.text[p.at : end])
            p.at = end
            if found >= 0:
                return True
            if not (yield from p.more()):
                self._out.content(p.text[p.at :])
                p.at = len(p.text)
                return False

    def _calls(self) -> Reading[None]:
        """What an opening tag begins: one call, or several that share it."""
        p = self._pieces
        p.mark()
        p.at += len(OPEN)
        yield from self._opening()
        if not (yield from self._call()):
            p.rewind()
            self._out.content(OPEN)
            p.at += len(OPEN)
            return
        while (yield from self._has_more()):
            if not (yield from self._call()):
                p.rewind()
                return

    def _opening(self) -> Reading[None]:
        """Between the tag and the first call: white space, a code fence, the bracket of a list."""
        p = self._pieces
        yield from p.read(_SPACE)
        if (yield from p.starts_with("```")):
            p.at += 3
            yield from p.read(_LANGUAGE)
        if (yield from self._json.next()) == "[":
            p.at += 1
        yield from p.read(_SPACE)

    def _has_more(self) -> Reading[bool]:
        """Behind a call: whether another one follows without a tag; reads the closing tag."""
        p = self._pieces
        p.mark()
        yield from p.read(_REST)
        is_next = (yield from self._tag()) == OPEN
        rest = p.text[p.at : p.at + len(CLOSE)]
        if rest.startswith("{"):
            return True
        if CLOSE.startswith(rest):  # or half of it, which then is the end of the reply
            p.at += len(rest)
        elif not is_next:
            p.rewind()  # text, what was read included
        p.unmark()
        return False

    def _tag(self) -> Reading[str]:
        """The tag that is next, or "" """
        for tag in (CLOSE, OPEN):
            if (yield from self._pieces.starts_with(tag)):
                return tag
        return ""

    # ---- one call ------------------------------------------------------------------------------

    def _start_call(self) -> None:
        self._is_named = self._has_arguments = False
        self._arguments: list[str] = []

    def _call(self) -> Reading[bool]:
        """One call; False, and nothing has been said, where no name was found."""
        self._start_call()
        try:
            yield from self._object(is_outer=True)
            is_ended = True
        except BrokenJson:
            # Only the brace that ends the call is missing: nothing of it is lost.
            is_ended = self._has_arguments and (yield from self._tag()) == CLOSE
        if not self._is_named:
            return False
        if is_ended and not "".join(self._arguments).strip():
            self._add_arguments("{}")
        self._out.end(is_ended and _is_json("".join(self._arguments)))
        return True

    def _object(self, is_outer: bool) -> Reading[None]:
        """`{"name": ..., "arguments": ...}`, its keys in any order, unknown ones skipped."""
        p, json_ = self._pieces, self._json
        if (yield from json_.next()) != "{":
            raise BrokenJson
        p.at += 1
        while (char := (yield from json_.next())) != "}":
            if char != '"':
                raise BrokenJson
            key = yield from json_.key()
            if (yield from json_.next()) != ":":
                raise BrokenJson
            p.at += 1
            yield from self._field(key, is_outer)
            char = yield from json_.next()
            if char == ",":
                p.at += 1
            elif char != "}":
                raise BrokenJson
        p.at += 1

    def _field(self, key: str, is_outer: bool) -> Reading[None]:
        """The value of `key`. Of two names, or two arguments, the first one counts."""
        char = yield from self._json.next()
        if key == "function" and char == "{" and is_outer:
            yield from self._object(is_outer=False)
        elif key in _NAMES and not self._is_named:
            yield from self._name(char)
        elif key in _ARGUMENTS and not self._has_arguments:
            yield from self._values(char)
            self._has_arguments = True
        else:
            yield from self._json.value(lambda text: None)

    def _name(self, char: str) -> Reading[None]:
        name = (yield from self._json.key()) if char == '"' else ""
        if not name:
            raise BrokenJson
        self._is_named = True
        self._pieces.unmark()
        self._out.start(name)
        self._out.arguments("".join(self._arguments))

    def _values(self, char: str) -> Reading[None]:
        """The arguments. A JSON text that holds them is unwrapped; null and "" are none."""
        if char == '"':
            yield from self._json.wrapped(self._add_arguments)
        elif char in ("{", "["):
            yield from self._json.value(self._add_arguments)
        else:
            word = yield from self._json.word()
            self._add_arguments("" if word == "null" else word)

    def _add_arguments(self, text: str) -> None:
        self._arguments.append(text)
        if self._is_named:
            self._out.arguments(text)


def _without_half_tag(text: str, start: int) -> int:
    """Where `text[start:]` ends without what may become an opening tag."""
    at = text.rfind("<", max(start, len(text) - len(OPEN) + 1))
    return at if at >= 0 and OPEN.startswith(text[at:]) else len(text)


def _is_json(text: str) -> bool:
    try:
        # Numbers stay texts: Python converts no digits beyond 4300.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


# ---- the rule for whole texts ------------------------------------------------------------------

# A closing tag ends a call only before another call or the end of the text.
_ENDS = re.compile(rf"{CLOSE}(?=\s*(?:{OPEN}|\Z))")


def read_tool_calls(text: str) -> list[ToolCall] | str:
    """The calls of a finished text, or the text where it has none or any of them is broken.

    For training data and evaluation, where a half right reply must not count: the rule of the
    original fine-tuning code. Arguments are parsed and written again. Servers use `ToolCallParser`.
    """
    ends, calls, at = [found.start() for found in _ENDS.finditer(text)], [], 0
    for end in ends:
        start = text.find(OPEN, at, end)
        if start < 0:
            continue
        call = _read_call(text[start + len(OPEN) : end])
        if call is None:
            return text
        calls.append(call)
        at = end + len(CLOSE)
    return calls or text


def _read_call(text: str) -> ToolCall | None:
    try:
        call = json.loads(text)
        if not isinstance(call, dict) or not isinstance(call["name"], str):
            return None
        return ToolCall(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
    except (ValueError, KeyError, RecursionError):
        return None
