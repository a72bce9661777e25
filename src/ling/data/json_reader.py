"""JSON that comes in pieces and may be broken: its characters leave as they come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from .pieces import Pieces, Reading

Emit = Callable[[str], None]

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r'[^\s,:"{}\[\]<]*')
# Inside a value: everything up to a bracket, a tag, or a string that is broken or goes on. (Counts
# of repeated groups are bounded: the engine remembers each repetition until the match ends.)
_INSIDE = re.compile(r'(?:[^"{}\[\]<]+|"[^"\\\n]*(?:\\[^\n][^"\\\n]*){,999}"){,999}')
_NAME = re.compile(r'[^"\\\x00-\x1f]*')
_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_UNIT = re.compile(r"\\u[0-9a-fA-F]{4}")
_ESCAPES = {'\\"': '"', "\\\\": "\\", "\\/": "/", "\\b": "\b", "\\f": "\f"}
_SPACES = {"\\n": "\n", "\\r": "\r", "\\t": "\t"}


def _runs(stops: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What a string holds up to one of `stops`: without escapes, and with them."""
    plain = rf'[^"\\{stops}]*'
    return re.compile(plain), re.compile(rf"{plain}(?:\\[^\n]{plain}){{,999}}")


_SOUND, _BROKEN = _runs(r"\n"), _runs("<")


class BrokenJson(Exception):
    """The text at this place is no JSON, or it has ended."""


class JsonReader:
    """Readers of values; `tag` says which tag of the surrounding text is next, "" for none.

    A tag ends a value unless it is inside a string, where it is data. A string with a raw newline
    in it is no JSON, and most often one that was never closed: there the tag ends the value, too.
    """

    def __init__(self, pieces: Pieces, tag: Callable[[], Reading[str]]) -> None:
        self._pieces, self._tag = pieces, tag

    def next(self) -> Reading[str]:
        """The next character behind white space, empty at the end of the text."""
        yield from self._pieces.read(_SPACE)
        return (yield from self._pieces.peek())

    def key(self) -> Reading[str]:
        """A string as the text it stands for; raises `BrokenJson`."""
        p, raw = self._pieces, ['"']
        p.at += 1
        while True:
            raw.append((yield from p.read(_NAME)))
            last = yield from p.ahead(1)
            escape = (yield from p.ahead(2)) if last == "\\" else last
            raw.append(escape)
            p.at += len(escape)
            if last == '"':
                break
            if last != "\\":
                raise BrokenJson
        try:
            text: str = json.loads("".join(raw))
        except ValueError:
            raise BrokenJson from None
        return text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text

    def value(self, emit: Emit) -> Reading[None]:
        """A value of any kind, as it is written."""
        first = yield from self.next()
        if first == '"':
            yield from self._quoted(emit)
        elif first in ("{", "["):
            yield from self._nested(emit)
        else:
            emit((yield from self.word()))

    def word(self) -> Reading[str]:
        """A number, true, false, null, or what a model takes for one."""
        word = yield from self._pieces.read(_WORD)
        if not word:
            raise BrokenJson
        return word

    def wrapped(self, emit: Emit) -> Reading[None]:
        """A string: if it holds an object, the object's own characters, else as it is written.

        Nothing for an empty string.
        """
        p = self._pieces
        p.at += 1
        space = []
        while (char := (yield from p.peek())) and (
            char.isspace() or (char == "\\" and (yield from p.ahead(2)) in _SPACES)
        ):
            space.append(p.text[p.at : p.at + 1 + (char == "\\")])
            p.at += len(space[-1])
        if char == '"':
            p.at += 1
        elif char == "{":
            yield from self._string(emit, is_raw=False)
        else:
            emit('"' + "".join(space))
            yield from self._string(emit, is_raw=True)
            emit('"')

    def _quoted(self, emit: Emit) -> Reading[None]:
        emit('"')
        self._pieces.at += 1
        yield from self._string(emit, is_raw=True)
        emit('"')

    def _nested(self, emit: Emit) -> Reading[None]:
        """An object or a list, whatever is in it: brackets and strings alone say where it ends."""
        p, depth, start = self._pieces, 0, self._pieces.at
        while True:
            matched = _INSIDE.match(p.text, p.at)
            assert matched is not None
            p.at = matched.end()
            char = p.text[p.at : p.at + 1]
            if char in ("{", "["):
                p.at, depth = p.at + 1, depth + 1
            elif char in ("}", "]"):
                p.at, depth = p.at + 1, depth - 1
                if not depth:
                    emit(p.text[start : p.at])
                    return
            else:
                emit(p.text[start : p.at])
                yield from self._pause(char, emit)
                start = p.at

    def _pause(self, char: str, emit: Emit) -> Reading[None]:
        """Where more text is needed to go on, or `char` needs a closer look."""
        if char == '"':
            yield from self._quoted(emit)
        elif char == "<":
            yield from self._angle(emit)
        elif not char and not (yield from self._pieces.more()):
            raise BrokenJson

    def _angle(self, emit: Emit) -> Reading[None]:
        if (yield from self._tag()):
            raise BrokenJson
        self._pieces.at += 1
        emit("<")

    def _string(self, emit: Emit, is_raw: bool) -> Reading[None]:
        """What follows an opening quote, the closing one included but not emitted."""
        p, kinds = self._pieces, _SOUND
        while True:
            matched = kinds[is_raw].match(p.text, p.at)
            assert matched is not None
            emit(matched[0])
            p.at = matched.end()
            char = yield from p.peek()
            if char == '"':
                p.at += 1
                return
            if char == "\\":
                emit((yield from self._escape(is_raw)))
            elif char == "\n":
                kinds = _BROKEN
            elif char == "<" and kinds is _BROKEN:
                yield from self._angle(emit)
            elif not char:
                raise BrokenJson

    def _escape(self, is_raw: bool) -> Reading[str]:
        """An escape, or what it stands for; what JSON does not know stays as it is."""
        p = self._pieces
        short = yield from p.ahead(2)
        if is_raw or short != "\\u":
            p.at += len(short)
            return short if is_raw else {**_ESCAPES, **_SPACES}.get(short, short)
        unit = _UNIT.match((yield from p.ahead(6)))
        if unit is None:
            p.at += 2
            return short
        char: str = json.loads(f'"{unit[0]}"')
        if "\ud800" <= char < "\udc00":
            pair = _PAIR.match((yield from p.ahead(12)))
            char = json.loads(f'"{pair[0]}"') if pair else char
        p.at += 6 * (1 + (char > "\uffff"))
        return "\ufffd" if "\ud800" <= char < "\ue000" else char
