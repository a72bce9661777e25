"""Calls between the process of a checker and that of an answer, with plain values only.

The checker must be able to believe what it compares: no code, no object with an `__eq__` of its own
and no pickle comes over. What is no plain value stays where it is, and the other side gets a number
for it, which it can call and return.
"""

from __future__ import annotations

import builtins
import collections
import decimal
import fractions
import json
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

MAX_FRAME_BYTES = 16 << 20
_MAX_ITEMS = 1_000_000
_SAFE_INT = 1 << 53


class GoneError(BaseException):
    """The other side has ended; no test may catch it by mistake."""


class Remote:
    """Something that the other side has. It can be called, asked for attributes and given back;
    it compares with nothing and is neither true nor false."""

    def __init__(self, wire: Wire, number: int) -> None:
        self.__dict__["_remote"] = (wire, number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wire, number = self.__dict__["_remote"]
        return wire.call(number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # such as those that `copy` looks for
            raise AttributeError(name)
        wire, number = self.__dict__["_remote"]
        return wire.ask({"q": "get", "o": number, "n": name})

    def _no_value(self, *_: Any) -> Any:
        raise TypeError("the answer gave an object of its own where a plain value is expected")

    __bool__ = __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = _no_value
    __hash__ = None  # type: ignore[assignment]


class Wire:
    """One end of the connection. The answer's end finds names for the other one with `find`, and
    gives attributes of objects; the checker's end, without it, only lets its objects be called."""

    def __init__(self, connection: socket.socket, find: Callable[[str], Any] | None = None) -> None:
        self._connection, self._find = connection, find
        self._objects: list[Any] = []

    # ---- asking --------------------------------------------------------------------------------

    def call(self, number: int, args: Any, kwargs: dict[str, Any]) -> Any:
        """Call an object of the other end. Lists, dicts and sets that it changed in place are
        changed here, too."""
        sent = [self._out(value) for value in args]
        named = {name: self._out(value) for name, value in kwargs.items()}
        return self.ask({"q": "call", "o": number, "a": sent, "k": named}, args)

    def name(self, name: str) -> Any:
        """What the answer's program calls `name`."""
        return self.ask({"q": "name", "n": name})

    def ask(self, request: dict[str, Any], args: Any = ()) -> Any:
        """Send a request, and serve those of the other end until the reply is there."""
        self._send(request)
        while "q" in (reply := self._receive()):
            self._send(self._serve(reply))
        if "x" in reply:
            kind, message = reply["x"]
            raise _exception(kind)(str(message))
        for place, items in reply.get("a", []):
            _refill(args[place], self._in(items))
        return self._in(reply["v"])

    # ---- serving -------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer requests until the other end is closed."""
        try:
            while True:
                self._send(self._serve(self._receive()))
        except GoneError:
            return

    def _serve(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._reply(request)
        except GoneError:
            raise
        except BaseException as err:  # `SystemExit` is no way out
            kind = _builtin_name(err)
            return {"x": [kind, message(err).removeprefix(f"{kind}: ")]}

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["q"] == "call":
            args = [self._in(value) for value in request["a"]]
            named = {name: self._in(value) for name, value in request["k"].items()}
            value = self._out(self._objects[request["o"]](*args, **named))
            changed = [
                [i, after]
                for i, arg in enumerate(args)
                if type(arg) in _FILLED and (after := self._out(arg)) != request["a"][i]
            ]
            return {"v": value, "a": changed}
        if self._find is None:
            raise TypeError("objects of the tests can only be called")
        if request["q"] == "name":
            return {"v": self._out(self._find(request["n"]))}
        return {"v": self._out(getattr(self._objects[request["o"]], request["n"]))}

    # ---- values --------------------------------------------------------------------------------

    def _out(self, value: Any) -> Any:
        """As JSON; subclasses of plain types become plain."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            value = int(value)
            return value if abs(value) < _SAFE_INT else {"int": hex(value)}
        for kind, (name, pack, _) in _PACKED.items():
            if isinstance(value, kind):
                return {name: pack(value)}
        if isinstance(value, list):
            return [self._out(v) for v in value]
        if isinstance(value, dict):
            return {"dict": [[self._out(k), self._out(v)] for k, v in value.items()]}
        for group, (name, _) in _GROUPS.items():
            if isinstance(value, group):
                return {name: [self._out(v) for v in cast(Iterable[Any], value)]}
        if isinstance(value, Remote) and value.__dict__["_remote"][0] is self:
            return {"yours": value.__dict__["_remote"][1]}
        if isinstance(value, Iterator) and not isinstance(value, Remote):
            items = [v for v, _ in zip(value, range(_MAX_ITEMS), strict=False)]
            return {"iter": [self._out(v) for v in items]}
        self._objects.append(value)
        return {"mine": len(self._objects) - 1}

    def _in(self, data: Any) -> Any:
        if isinstance(data, list):
            return [self._in(v) for v in data]
        if not isinstance(data, dict):
            return data
        ((name, packed),) = data.items()
        if name == "int":
            return int(packed, 16)
        if name == "dict":
            return {self._in(k): self._in(v) for k, v in packed}
        if name == "iter":
            return iter([self._in(v) for v in packed])
        if name == "mine":
            return Remote(self, int(packed))
        if name == "yours":
            return self._objects[packed]
        for group, make in _GROUPS.values():
            if name == group:
                return make([self._in(v) for v in packed])
        return next(unpack for n, _, unpack in _PACKED.values() if n == name)(packed)

    # ---- frames --------------------------------------------------------------------------------

    def _send(self, what: dict[str, Any]) -> None:
        data = json.dumps(what).encode()
        if len(data) > MAX_FRAME_BYTES:
            what = {"x": ["ValueError", f"a value of more than {MAX_FRAME_BYTES} bytes"]}
            data = json.dumps(what).encode()
        try:
            self._connection.sendall(struct.pack("<I", len(data)) + data)
        except OSError:
            raise GoneError from None

    def _receive(self) -> dict[str, Any]:
        (length,) = struct.unpack("<I", self._exactly(4))
        if length > MAX_FRAME_BYTES:
            raise GoneError
        return json.loads(self._exactly(length))

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                piece = self._connection.recv(min(count - len(data), 1 << 16))
            except OSError:
                piece = b""
            if not piece:
                raise GoneError
            data += piece
        return bytes(data)


_FILLED = (list, dict, set, bytearray, collections.deque)
_Pack = tuple[str, Callable[[Any], Any], Callable[[Any], Any]]
_PACKED: dict[type, _Pack] = {
    float: ("float", float.hex, float.fromhex),
    complex: (
        "complex",
        lambda v: [v.real.hex(), v.imag.hex()],
        lambda p: complex(*map(float.fromhex, p)),
    ),
    bytes: ("bytes", bytes.hex, bytes.fromhex),
    bytearray: ("bytearray", bytearray.hex, bytearray.fromhex),
    range: ("range", lambda v: [v.start, v.stop, v.step], lambda p: range(*p)),
    decimal.Decimal: ("decimal", str, decimal.Decimal),
    fractions.Fraction: ("fraction", str, fractions.Fraction),
}
# By type: its name, and what is made of it on the other side.
_GROUPS: dict[type, tuple[str, Callable[[Iterable[Any]], Any]]] = {
    tuple: ("tuple", tuple),
    set: ("set", set),
    frozenset: ("frozenset", frozenset),
    collections.deque: ("deque", collections.deque),
    type({}.keys()): ("keys", set),
    type({}.values()): ("values", list),
    type({}.items()): ("items", list),
}


def _refill(old: Any, new: Any) -> None:
    if type(old) is not type(new) or type(old) not in _FILLED:
        raise TypeError("an argument became another type")
    if isinstance(old, (dict, set)):
        old.clear()
        old.update(new)
    elif isinstance(old, collections.deque):
        old.clear()
        old.extend(new)
    else:
        old[:] = new


# A test that iterates would take these for its own end.
_SWALLOWED = (StopIteration, StopAsyncIteration, GeneratorExit)


def _builtin_name(error: BaseException) -> str:
    for kind in type(error).__mro__:
        if kind.__module__ == "builtins" and issubclass(kind, Exception):
            return kind.__name__
    return "RuntimeError"


def _exception(name: object) -> type[Exception]:
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or kind in _SWALLOWED:
        return RuntimeError
    try:
        kind("text")
    except TypeError:  # such as `UnicodeDecodeError`, which wants five arguments
        return ValueError if issubclass(kind, ValueError) else RuntimeError
    return kind


def message(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:1000]
    except BaseException:
        return type(error).__name__
