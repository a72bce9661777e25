"""Where the time of steps goes on this rank: waiting for data, waiting for other ranks, own work.

torch has no hook for the time of collectives that also works with gloo. So while a step runs, the
functions that start them and the method that waits for them are called through a clock. On a CPU
that measures the time in which the process does nothing but communicate. On CUDA a pair of events
on the current stream measures how long the stream is held up; what FSDP gathers on a stream of its
own counts too, though computation may hide it. Functional collectives, which DTensor makes by
itself, are not seen; a step has none.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# Those that a release of torch has; newer ones have other names for two of them.
_COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_single",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "batch_isend_irecv",
    "broadcast",
    "recv",
    "reduce_scatter_single",
    "reduce_scatter_tensor",
    "send",
)


@dataclass
class Times:
    """Seconds of `steps` steps: all of them, in collectives, and waiting for data."""

    steps: int = 0
    step_s: float = 0.0
    communication_s: float = 0.0
    data_s: float = 0.0

    def per_step(self) -> Times:
        """Means over the steps."""
        n = max(self.steps, 1)
        return Times(1, self.step_s / n, self.communication_s / n, self.data_s / n)


class StepClock:
    """Adds up the times of steps until they are taken; `last_s` is that of the last step."""

    def __init__(self, device: torch.device, ranks: int) -> None:
        self._cuda, self._ranks = device.type == "cuda", ranks
        self._times, self.last_s = Times(), 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        # By thread: a save in the background has collectives of its own.
        self._local, self._thread = threading.local(), 0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around one step, which must end with its results read (that is, synchronised)."""
        start, self._thread = time.perf_counter(), threading.get_ident()
        with self._watched() if self._ranks > 1 else contextlib.nullcontext():
            yield
        self.last_s = time.perf_counter() - start
        self._times.steps += 1
        self._times.step_s += self.last_s

    def reading(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with the time that each of them takes to come."""
        each = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(each)
            except StopIteration:
                return
            finally:
                self._times.data_s += time.perf_counter() - start
            yield batch

    def take(self) -> Times:
        """Times since the last call."""
        self._times.communication_s += sum(a.elapsed_time(b) / 1000 for a, b in self._events)
        self._events.clear()
        taken, self._times = self._times, Times()
        return taken

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        found = [(dist, name) for name in _COLLECTIVES if hasattr(dist, name)]
        places: list[tuple[Any, str]] = [*found, (dist.Work, "wait")]
        before = [getattr(owner, name) for owner, name in places]
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, self._timed(call))
        try:
            yield
        finally:
            for (owner, name), call in zip(places, before, strict=True):
                setattr(owner, name, call)

    def _timed(self, call: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> T:
            # A collective waits for its own work; a backward pass on CUDA has its own thread.
            elsewhere = not self._cuda and threading.get_ident() != self._thread
            if elsewhere or getattr(self._local, "inside", False):
                return call(*args, **kwargs)
            self._local.inside = True
            try:
                with self._on_device() if self._cuda else self._on_host():
                    return call(*args, **kwargs)
            finally:
                self._local.inside = False

        return timed

    @contextlib.contextmanager
    def _on_host(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._times.communication_s += time.perf_counter() - start

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        try:
            yield
        finally:
            last.record()
            self._events.append((first, last))
