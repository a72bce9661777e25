"""Results of a sweep: `results.jsonl`, one line of JSON for each run."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, get_type_hints

from ..errors import DataError, RunError, UsageError
from ..files import guarded
from ..text import as_json, nearest, shown

DENSE = "dense"
"""The family that leverage is measured against."""
STATUSES = ("done", "diverged")
_MAX_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One run. FLOPs are of training, forward and backward pass, embeddings not counted; without
    the head (the laws' count) where the name does not say otherwise."""

    run: str
    """Name of the run folder."""
    family: str
    """`dense`, or the share of routed experts that a token uses, such as `1/32`."""
    size: str
    """Name of the size in its family."""
    activation_ratio: float
    """A of the laws: (routed experts of a token + shared) / (all routed + shared); 1 of `dense`."""
    granularity: float | None
    """G of the laws: 2 × hidden size / expert width; None of `dense`."""
    seed: int
    params_total: int
    params_active: int
    params_active_no_head: int
    """Active parameters without embedding and head."""
    flops_per_token: int
    flops_per_token_with_head: int
    tokens: int
    """Tokens trained."""
    flops: float
    flops_with_head: float
    target_flops: float
    """The compute that the grid asked for; `flops` differs by rounding to whole steps."""
    lr: float
    lr_factor: float
    """`lr` as a multiple of the grid's own rule."""
    batch_tokens: int
    steps: int
    loss: float | None
    """Held-out loss at the end, nats per token; None where it is not finite."""
    valid_tokens: int
    """Tokens that `loss` is a mean over."""
    train_loss: float | None
    status: str
    """`done` or `diverged`."""
    held_out: bool = False
    """Kept from the fits, to be predicted by them."""
    seconds: float
    commit: str
    """Of the code; empty where it is not known."""
    machine: str

    def __post_init__(self) -> None:
        for name, hint in _HINTS.items():
            self._check(name, hint)
        if self.status not in STATUSES:
            raise UsageError(f"`status` is {shown(self.status)}, expected {' or '.join(STATUSES)}")
        if not self.run or not self.family:
            raise UsageError("`run` and `family` must not be empty")

    def _check(self, name: str, hint: Any) -> None:
        """Refuse another type; numbers that are not finite become None where that is allowed."""
        value = getattr(self, name)
        if type(value) is int and value.bit_length() > _MOST_BITS:
            raise UsageError(f"`{name}` has {value.bit_length()} bits, expected a smaller number")
        kind = next(k for k in _KINDS if k in _types(hint))
        optional = type(None) in _types(hint)
        if optional and isinstance(value, float) and not math.isfinite(value):
            value = None
            object.__setattr__(self, name, value)
        if optional and value is None:
            return
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = float(value)
            object.__setattr__(self, name, value)
        if type(value) is not kind:
            raise UsageError(f"`{name}` is {as_json(value)}, expected {_KINDS[kind]}")
        if kind in (int, float):
            _check_number(name, getattr(self, name))

    def cost(self, with_head: bool) -> float:
        """FLOPs of the whole run."""
        return self.flops_with_head if with_head else self.flops

    @property
    def final_loss(self) -> float:
        """`loss` of a run that has one."""
        assert self.loss is not None, self.run
        return self.loss

    def as_json(self) -> str:
        """One line of JSON, without its end."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)


def _check_number(name: str, value: float) -> None:
    if not math.isfinite(value) or (value <= 0 and name not in _ANY_SIGN):
        above = "" if name in _ANY_SIGN else " above 0"
        raise UsageError(f"`{name}` is {value}, expected a number{above}")
    if name == "activation_ratio" and value > 1:
        raise UsageError(f"`{name}` is {value}, expected at most 1")


def _types(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__args__", (hint,))


_KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
_HINTS = get_type_hints(Row)
_REQUIRED = [f.name for f in dataclasses.fields(Row) if f.default is dataclasses.MISSING]
# Of most of the others logarithms are taken.
_ANY_SIGN = ("seed", "seconds")
# What fits into a float.
_MOST_BITS = 1000


def read_rows(path: Path) -> list[Row]:
    """All rows of a file; `DataError` names the line that is damaged or cut off."""
    try:
        data = guarded.read_regular(path, _MAX_BYTES)
    except OSError as err:
        raise DataError(err.strerror or str(err), path=path) from None
    *lines, rest = data.split(b"\n")
    rows = [_row(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if rest:
        if _is_json(rest):
            _row(path, len(lines) + 1, rest)  # of a file of another kind this says what is wrong
        _refuse_cut(path, len(lines) + 1)
    if not rows:
        raise DataError("no results in it", path=path)
    return rows


def _is_json(line: bytes) -> bool:
    try:
        guarded.loads(line)
    except ValueError:
        return False
    return True


def _refuse_cut(path: Path, line: int) -> None:
    message = "the last line is cut off (it has no line end); remove it and repeat its run"
    raise DataError(message, path=path, line=line)


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        return _from_object(guarded.loads(line))
    except ValueError as err:
        raise DataError(str(err), path=path, line=number) from None


def _from_object(found: Any) -> Row:
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    for key in found:
        if key not in _HINTS:
            raise ValueError(f"{shown(key)} is no key of a result{nearest(key, list(_HINTS))}")
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise ValueError(f"`{missing[0]}` is missing")
    return Row(**found)


def append_row(path: Path, row: Row) -> None:
    """Add a line at the end, in one write and on the disk before this returns, or not at all.

    `DataError` where the file ends in half a line: the next would be lost with it.
    """
    try:
        with path.open("ab+", buffering=0) as file:
            _check_end(path, file)
            _write_whole(file, row.as_json().encode() + b"\n")
    except OSError as err:
        raise RunError(f"could not save {path}: {err.strerror or err}") from None


def _write_whole(file: FileIO, line: bytes) -> None:
    """A full disk takes a part of a line: it is cut off again, so that the file stays readable."""
    size = file.seek(0, os.SEEK_END)
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        raise


def _check_end(path: Path, file: FileIO) -> None:
    if not file.tell():
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        _refuse_cut(path, file.read().count(b"\n") + 1)
