"""A stage as its own code sees it: checks with names, each told as soon as it has ended."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

CHECK_S = 30.0
"""What a check may take unless it says otherwise."""
BUSY = 5
"""How many times as long in tiny runs: machines that run tests do other work beside them."""
# Errors of torch behind which a process can use its GPU no more.
_POISON = ("CUDA error", "cuBLAS error", "CUBLAS_STATUS", "device-side assert", "CUDNN_STATUS")

Values = dict[str, Any]


class Missing(Exception):
    """The code that a check is for is not there; the text names it."""


def part(module: str) -> Any:
    """A module of ling, or `Missing`: it may lack a package, or not be in this checkout."""
    try:
        return import_module(f"ling.{module}")
    except ImportError as err:
        raise Missing(str(err)) from None


class Poisoned(Exception):
    """The GPU cannot be used any more by this process; the next one goes on."""


class Stage:
    """What a stage needs to know, and where its results go.

    `device` is where checks run, `tiny` asks for sizes of milliseconds, `fixtures` is a folder like
    tests/fixtures or None, `done` has by name what an earlier process of this stage has told.
    """

    def __init__(
        self,
        pipe: Connection,
        *,
        device: torch.device,
        tiny: bool,
        fixtures: Path | None,
        until: float,
        done: Mapping[str, Values] | None = None,
    ) -> None:
        self.device, self.tiny, self.fixtures = device, tiny, fixtures
        self._pipe, self._until, self.done = pipe, until, done or {}

    @property
    def cuda(self) -> bool:
        """Whether this is a GPU, whose memory and kernels can be asked about."""
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds that this stage still has."""
        return self._until - time.time()

    def check(
        self,
        name: str,
        function: Callable[..., Values],
        *args: Any,
        limit_s: float = CHECK_S,
        needs_s: float = 0.0,
        **fields: Any,
    ) -> None:
        """Call `function` and tell what came of it under `name`, with `fields` beside it.

        Its values are kept as they are. `error` with `limit`, or `equal`, say whether the check
        passed: it is `ok` or `wrong`. An exception makes it `failed`, `Missing` makes it `missing`,
        and `no time` is what needs more than is left. A check that takes more than `limit_s` is
        ended from outside, as `timeout`, and the stage goes on behind it.
        """
        if name in self.done:
            return
        if self.left() < needs_s:
            self._tell({"name": name, "status": "no time", **fields})
            return
        if self.tiny:
            limit_s *= BUSY
        self._pipe.send(("begin", {"name": name, "limit_s": limit_s, **fields}))
        start, poisoned = time.perf_counter(), False
        try:
            values = function(*args)
            entry = {"status": _judged(values), **values}
        except Missing as err:
            entry = {"status": "missing", "error": str(err)}
        except Exception as err:
            entry = {"status": "failed", "error": one_line(err)}
            poisoned = _poisons(err)
        entry |= {"seconds": round(time.perf_counter() - start, 2)}
        self._tell({"name": name, **fields, **entry})
        if poisoned:
            raise Poisoned
        self.clean()

    def clean(self) -> None:
        """Free what the last check has left on the GPU."""
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _tell(self, entry: Values) -> None:
        self._pipe.send(("end", {key: _as_json(value) for key, value in entry.items()}))


def _as_json(value: Any) -> Any:
    """JSON has no numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _as_json(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(x) for x in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _judged(values: Values) -> str:
    if "limit" in values and not values["error"] <= values["limit"]:  # also where it is NaN
        return "wrong"
    return "ok" if values.get("equal", True) else "wrong"


def _poisons(err: Exception) -> bool:
    if isinstance(err, torch.OutOfMemoryError):
        return False
    return any(text in str(err) for text in _POISON)


def one_line(err: BaseException) -> str:
    """The error for a file of results: its kind, and the beginning of what it says."""
    text = " ".join(str(err).split())
    return f"{type(err).__name__}: {text[:600]}" if text else type(err).__name__
