"""Pickles of checkpoints read as data: a small interpreter that has nothing to call.

Classes and functions stay names (`Global`), what would be built from them stays a `Record` of its
parts, and a name that the caller does not expect ends the reading. Nothing is imported. The
interpreter knows the binary opcodes that `pickle` and `torch.save` write (protocols 2 to 5).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from ...errors import DCPError

# 120 000 chunks of three dimensions need that much; a hostile file of nothing but lists would go on
# for minutes.
MAX_OPCODES = 10_000_000
_MAX_KEY = 1 << 31


class Global(NamedTuple):
    """A class, function or dtype, by name only."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """What an object was to be built from. `kind` None: a persistent id, `args` is it."""

    __slots__ = ("args", "kind", "state")

    def __init__(self, kind: Global | None, args: tuple[Any, ...]) -> None:
        self.kind, self.args = kind, args
        self.state: Any = None

    def field(self, name: str) -> Any:
        """An attribute, as stored; None when there is none."""
        return self.state.get(name) if isinstance(self.state, dict) else None


_CONTAINERS = {
    Global("collections", "OrderedDict"): dict,
    Global("collections", "defaultdict"): dict,
    Global("collections", "deque"): list,
    Global("builtins", "set"): list,
    Global("builtins", "list"): list,
    Global("builtins", "dict"): dict,
}
_SCALARS = (str, int, float, bytes, type(None))


def read_pickle(data: bytes, allowed: Callable[[Global], bool]) -> Any:
    """The value that `data` describes, in plain containers, `Global`s and `Record`s.

    Raises `DCPError` for a name that is not `allowed`, an unusual opcode, or damage.
    """
    try:
        return _Reader(data, allowed).run()
    except DCPError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error):
        raise DCPError("damaged pickle") from None


class _Reader:
    def __init__(self, data: bytes, allowed: Callable[[Global], bool]) -> None:
        self.data, self.at, self.allowed = data, 0, allowed
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each open mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, steps = self.data, _STEPS
        for _ in range(MAX_OPCODES):
            code = data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                return self.stack.pop()
            step = steps.get(code)
            if step is None:
                raise DCPError(f"pickle opcode {bytes([code])!r} is not allowed")
            step(self)
        raise DCPError(f"pickle of more than {MAX_OPCODES} steps")

    # ---- bytes of the file ---------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) != count:
            raise DCPError("damaged pickle: ends early")
        self.at += count
        return part

    def sized(self, width: int) -> bytes:
        """Bytes after their length of `width` bytes."""
        return self.take(int.from_bytes(self.take(width), "little"))

    def line(self) -> str:
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode()

    # ---- values --------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def long1(self) -> None:
        self.push(int.from_bytes(self.sized(1), "little", signed=True))

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise DCPError("damaged pickle: empty stack")
        self.stack[-count:] = [items]

    # ---- containers ----------------------------------------------------------------------------

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Record):  # an unknown container stays empty
            raise DCPError("damaged pickle: not a list")

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise DCPError("damaged pickle: not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _check_key(key)
            target[key] = value

    # ---- names and what is built from them -----------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        if module == "__builtin__":  # what protocol 2 calls it, for readers of another age
            module = "builtins"
        found = Global(module, name)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DCPError("damaged pickle: a class without a name")
        if not self.allowed(found):
            raise DCPError(f"class {found} is not allowed")
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def build_from(self, keywords: bool = False) -> None:
        if keywords:
            self.stack.pop()
        args, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Global) or not isinstance(args, tuple):
            raise DCPError("pickle calls something that is not a class")
        if kind not in _CONTAINERS:
            self.push(Record(kind, args))
            return
        filled = bool(args) and isinstance(args[0], list) and kind.module == "builtins"
        self.push(args[0] if filled else _CONTAINERS[kind]())

    def set_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Record):
            raise DCPError("pickle changes something that is not an object")
        target.state = state


def _check_key(key: Any) -> None:
    """Keys that are cheap to hash: deep tuples would end the process, crafted ints take forever."""
    parts = key if isinstance(key, tuple) and not isinstance(key, Global) else (key,)
    for part in parts:
        scalar = isinstance(part, (*_SCALARS, Record, Global))
        if not scalar or (isinstance(part, int) and abs(part) > _MAX_KEY):
            raise DCPError("pickle has an unusual dictionary key")


def _number(layout: str) -> Callable[[_Reader], None]:
    width = struct.calcsize(layout)
    return lambda r: r.push(struct.unpack(layout, r.take(width))[0])


def _unsigned(width: int) -> Callable[[_Reader], int]:
    return lambda r: int.from_bytes(r.take(width), "little")


def _text(width: int) -> Callable[[_Reader], None]:
    return lambda r: r.push(r.sized(width).decode("utf-8", "surrogatepass"))


def _get(width: int) -> Callable[[_Reader], None]:
    return lambda r: r.push(r.memo[_unsigned(width)(r)])


def _put(width: int) -> Callable[[_Reader], None]:
    return lambda r: r.memo.__setitem__(_unsigned(width)(r), r.stack[-1])


def _proto(r: _Reader) -> None:
    if r.take(1)[0] > 5:
        raise DCPError("pickle protocol above 5")


_STEPS: dict[int, Callable[[_Reader], Any]] = {
    ord(code): step
    for code, step in {
        "\x80": _proto,
        "\x95": lambda r: r.take(8),  # FRAME
        "(": _Reader.mark,
        "0": lambda r: r.stack.pop(),
        "1": _Reader.since_mark,
        "N": lambda r: r.push(None),
        "\x88": lambda r: r.push(True),
        "\x89": lambda r: r.push(False),
        "J": _number("<i"),
        "K": _number("<B"),
        "M": _number("<H"),
        "G": _number(">d"),
        "\x8a": _Reader.long1,
        "X": _text(4),
        "\x8c": _text(1),
        "\x8d": _text(8),
        "B": lambda r: r.push(r.sized(4)),
        "C": lambda r: r.push(r.sized(1)),
        "\x8e": lambda r: r.push(r.sized(8)),
        ")": lambda r: r.push(()),
        "\x85": lambda r: r.tuple_of(1),
        "\x86": lambda r: r.tuple_of(2),
        "\x87": lambda r: r.tuple_of(3),
        "t": lambda r: r.push(tuple(r.since_mark())),
        "]": lambda r: r.push([]),
        "\x8f": lambda r: r.push([]),  # EMPTY_SET: its order, as a list
        "l": lambda r: r.push(r.since_mark()),
        "\x91": lambda r: r.push(r.since_mark()),  # FROZENSET
        "a": lambda r: r.extend([r.stack.pop()]),
        "e": lambda r: r.extend(r.since_mark()),
        "\x90": lambda r: r.extend(r.since_mark()),  # ADDITEMS
        "}": lambda r: r.push({}),
        "s": lambda r: r.update([r.stack.pop(-2), r.stack.pop()]),
        "u": lambda r: r.update(r.since_mark()),
        "h": _get(1),
        "j": _get(4),
        "q": _put(1),
        "r": _put(4),
        "\x94": lambda r: r.memo.__setitem__(len(r.memo), r.stack[-1]),
        "c": lambda r: r.name(r.line(), r.line()),
        "\x93": _Reader.stack_global,
        "R": _Reader.build_from,
        "\x81": _Reader.build_from,
        "\x92": lambda r: r.build_from(keywords=True),
        "b": _Reader.set_state,
        "Q": lambda r: r.push(Record(None, r.stack.pop())),
    }.items()
}
