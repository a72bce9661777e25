"""Records of JSON files, one a line or in one array, with the line of the first bad one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..errors import DataError
from ..text import as_json, shown
from .plaintext import NOT_UTF8, UTF8, decoded, marked_encoding

MAX_RECORD_CHARS = 64 << 20
# The most likely first.
TEXT_KEYS = (
    *("text", "content", "contents", "raw_content", "document", "body"),
    *("article", "story", "passage", "code", "sentence"),
)


class Record(NamedTuple):
    """One value of a file: its number and its line, both from 1, and the parsed JSON."""

    number: int
    line: int
    value: Any


class Fault(NamedTuple):
    """A line or an element that is no record: its number as a record's, and the error."""

    number: int
    error: DataError


class RecordText(NamedTuple):
    """The number of a record, the key of its text (None: it is a text itself) and the text."""

    number: int
    key: str | None
    text: str


class NoTextKeyError(DataError):
    """The records have no key with text; `keys` are the ones they have."""

    def __init__(
        self, keys: Iterable[str], wanted: str | None, path: Path, line: int | None = None
    ) -> None:
        names = [shown(k) for k in keys]
        self.keys = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        missing = "no key with text" if wanted is None else f"no key {shown(wanted)}"
        found = f"its keys are {self.keys}" if names else "it has no keys"
        super().__init__(f"{missing}; {found} (choose with --json-key)", path=path, line=line)


def read_json_records(path: Path) -> Iterator[Record]:
    """The records of a file, of which one at a time is in memory.

    The file is one array, or has one record a line; blank lines count and are passed over. Raises
    `DataError` for the first that is not JSON, has a key twice or a lone surrogate.
    """
    return _no_faults(records_and_faults(path))


def records_and_faults(path: Path) -> Iterator[Record | Fault]:
    """As `read_json_records`, but what is no record is a `Fault` in its place, and the next one is
    read; an array that does not parse, and faults of a file as a whole, are raised."""
    encoding = marked_encoding(path)
    if _begins_as_array(path, encoding):
        return _Array(decoded(path, encoding), path).records()
    return _lines(decoded(path, encoding, errors=_errors(encoding)), path)


def _begins_as_array(path: Path, encoding: str) -> bool:
    texts = decoded(path, encoding, errors=_errors(encoding))
    head = next((start for text in texts if (start := text.lstrip())), "")
    return head.startswith("[")


def _errors(encoding: str) -> str:
    """Bytes that are no UTF-8 become half surrogates, so that their line alone is wrong."""
    return "surrogateescape" if encoding == UTF8 else "strict"


def _no_faults(records: Iterable[Record | Fault]) -> Iterator[Record]:
    for record in records:
        if isinstance(record, Fault):
            raise record.error
        yield record


def parse_json(text: str) -> Any:
    """The value of a JSON text; `ValueError` says in a few words what is wrong with it."""
    try:
        return _checked(_STRICT.decode(text), text)
    except (ValueError, RecursionError) as err:
        raise ValueError(_cause(err)) from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


def read_json_lines(
    path: Path, start: int, stop: int, *, line: int, number: int
) -> Iterator[Record]:
    """The records in the whole lines from byte `start` to `stop` of a UTF-8 file.

    `line` lines and `number` records come before them.
    """
    texts = decoded(path, UTF8, start, stop, line, _errors(UTF8))
    return _no_faults(_lines(texts, path, line, number))


def record_texts(
    path: Path, records: Iterable[Record], wanted: str | None, known: str | None = None
) -> Iterator[RecordText]:
    """The text of each record, empty for those without one (`null`, or not there).

    It is under the key `wanted`, by default under the first of `TEXT_KEYS` that the file has; a
    record that is text itself needs no key. The first record must have the key, unless it is
    `known` from an earlier part of the file.
    """
    key, checked = known or wanted, known is not None
    for record in records:
        value = record.value
        if isinstance(value, str) and wanted is None:
            yield RecordText(record.number, None, value)
            continue
        if not isinstance(value, dict):
            _fail(f"{as_json(value)}, expected a JSON object", path, record)
        if key is None:
            key = text_key(value)
        if not checked and (key is None or key not in value):
            raise NoTextKeyError(value, wanted, path, record.line)
        checked = True
        text = value.get(key)
        if text is not None and not isinstance(text, str):
            _fail(f"`{key}` is {as_json(text)}, expected a text", path, record)
        yield RecordText(record.number, key, text or "")


def text_key(record: dict[str, Any]) -> str | None:
    """The key of a record that is likely to hold its text; one that holds some is preferred."""
    names = {str(k).lower(): k for k in reversed(record)}
    known = [names[k] for k in TEXT_KEYS if k in names]
    full = [k for k in known if isinstance(record[k], str)]
    return next(iter(full or known), None)


def _fail(reason: str, path: Path, record: Record) -> NoReturn:
    raise DataError(reason, path=path, line=record.line)


def _lines(
    texts: Iterable[str], path: Path, line: int = 0, number: int = 0
) -> Iterator[Record | Fault]:
    size = 0
    parts: list[str] = []
    for text in chain(texts, ["\n"]):
        *whole, last = text.split("\n")
        if whole:
            whole[0] = "".join([*parts, whole[0]])
            is_long, parts, size = size > MAX_RECORD_CHARS, [], 0
        parts.append(last)
        size += len(last)
        for row in whole:
            line += 1
            if is_long:
                is_long = False
                yield Fault(line, _too_long(path, line))
            elif row.strip():
                number += 1
                yield _record(row, path, line)
        if size > MAX_RECORD_CHARS:
            parts.clear()  # the rest of the line is passed over, and not kept


def _record(text: str, path: Path, line: int) -> Record | Fault:
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        return Fault(line, DataError(NOT_UTF8, path=path, line=line))
    try:
        return Record(line, line, _checked(_DECODER.decode(text), text))
    except (ValueError, RecursionError) as err:
        cause = _whole_file_cause(text) if line == 1 else None
        if cause:
            raise DataError(cause, path=path, line=line) from None
        return Fault(line, DataError(_cause(err), path=path, line=line))


def _checked(value: Any, text: str) -> Any:
    if "\\ud" in text or "\\uD" in text:  # only escapes can smuggle in half a surrogate pair
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _cause(err: Exception) -> str:
    if isinstance(err, _TwiceError):
        return f"the key `{err}` is there twice"
    if isinstance(err, UnicodeEncodeError):
        return "a lone surrogate, which no text can hold"
    if isinstance(err, RecursionError):
        return "nested too deeply"
    if not isinstance(err, json.JSONDecodeError) and "integer string conversion" in str(err):
        return "a number with too many digits"
    return f"not JSON ({err})"


def _whole_file_cause(text: str) -> str | None:
    """What a file is whose first line is no JSON by itself."""
    if text.strip() == "{":
        return "a JSON object over several lines; write one object a line"
    if re.match(r"\s*<(!doctype|html)", text, re.IGNORECASE):
        return "an HTML page, expected JSON"
    return None


def _too_long(path: Path, line: int) -> DataError:
    return DataError(f"longer than {MAX_RECORD_CHARS} characters", path=path, line=line)


class _TwiceError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(n for n in names if names.count(n) > 1)[:40])
    return found


# Making one for each line would take as long as reading it.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
# Finds where an element ends whose fault is not its form.
_LENIENT = json.JSONDecoder(parse_int=str)
_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)


class _Array:
    """A JSON array, of which one element and about one block of text are in memory."""

    _SPACE = re.compile(r"[ \t\r\n]*")

    def __init__(self, texts: Iterable[str], path: Path) -> None:
        self._texts, self._path = iter(texts), path
        self._text, self._at = "", 0
        self._line, self._counted = 1, 0  # the line at the position `_counted`

    def records(self) -> Iterator[Record | Fault]:
        """The elements; one whose fault is not its form, such as a key that is there twice, is a
        `Fault` in its place."""
        self._take("[")
        number = 0
        if self._peek() != "]":
            while True:
                number += 1
                self._peek()
                line = self._place()
                try:
                    yield Record(number, line, self._value(_DECODER))
                except (ValueError, RecursionError) as err:
                    self._value(_LENIENT)
                    yield Fault(number, DataError(_cause(err), path=self._path, line=line))
                if self._peek() != ",":
                    break
                self._take(",")
        self._take("]")
        if self._peek():
            self._fail("something after the end of the array")

    def _value(self, decoder: json.JSONDecoder) -> Any:
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
                if decoder is _DECODER:
                    value = _checked(value, self._text[self._at : end])
            except json.JSONDecodeError:
                if len(self._text) - self._at > MAX_RECORD_CHARS:
                    raise _too_long(self._path, self._place()) from None
                if not self._more():  # an element that is cut off looks like a wrong one
                    self._fail("not JSON, or cut off")
            except (ValueError, RecursionError):
                if decoder is _DECODER:
                    raise
                self._fail("nested too deeply")
            else:
                self._at = end
                return value

    def _take(self, wanted: str) -> None:
        if self._peek() != wanted:
            self._fail(f"not a JSON array, expected `{wanted}`")
        self._at += 1

    def _peek(self) -> str:
        """The next character that is no space, empty at the end of the file."""
        while True:
            match = self._SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Double the text that waits, so that a long element is parsed a few times only."""
        self._place()
        parts = [self._text[self._at :]]
        have, want = len(parts[0]), 2 * len(parts[0]) + 1
        for text in self._texts:
            parts.append(text)
            have += len(text)
            if have >= want:
                break
        self._text, self._at, self._counted = "".join(parts), 0, 0
        return have > len(parts[0])

    def _place(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _fail(self, reason: str) -> NoReturn:
        raise DataError(reason, path=self._path, line=self._place())
