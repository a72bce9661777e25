"""How long work on the device takes: medians of times between events, and paired ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ling.train.device import synchronize

# Written before each timed call, so that its inputs are not in the L2 cache (50 MB of an H100).
_FLUSH_BYTES = 256 << 20

Work = Callable[[], Any]


class Clock:
    """Times calls on one device; with `wall` as a user sees them, with all that the CPU does."""

    def __init__(self, device: torch.device, *, tiny: bool, wall: bool = False) -> None:
        self.device, self.tiny, self.wall = device, tiny, wall
        self._cuda, self._cache = device.type == "cuda", torch.empty(0)
        if self._cuda and not wall:
            self._cache = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)

    def seconds(self, work: Work, repeats: int = 10, warmup: int = 3) -> float:
        """Median of `repeats` calls behind `warmup` calls."""
        (found,) = self.interleaved([work], repeats, warmup)
        return statistics.median(found)

    def interleaved(self, works: Sequence[Work], repeats: int, warmup: int) -> list[list[float]]:
        """Seconds of every call of each work, which take turns, every other time from the last."""
        if self.tiny:
            repeats, warmup = 2, 1
        for work in works:
            for _ in range(warmup):
                work()
        spans: list[list[Any]] = [[] for _ in works]
        for k in range(repeats):
            order = range(len(works)) if k % 2 == 0 else reversed(range(len(works)))
            for n in order:
                spans[n].append(self._timed(works[n]))
        if self._cuda and not self.wall:
            torch.cuda.synchronize(self.device)
            return [[a.elapsed_time(b) / 1e3 for a, b in pairs] for pairs in spans]
        return spans

    def _timed(self, work: Work) -> Any:
        """A pair of events on a GPU, seconds elsewhere."""
        if not self._cuda or self.wall:
            synchronize(self.device)
            start = time.perf_counter()
            work()
            synchronize(self.device)
            return time.perf_counter() - start
        self._cache.zero_()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        return first, last

    def ratio(self, work: Work, base: Work, pairs: int = 20) -> dict[str, float]:
        """Seconds of both, and how many times faster `work` is: the median, least and most of the
        pairs."""
        ours, theirs = self.interleaved([work, base], pairs, 3)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        return {
            "seconds_each": statistics.median(ours),
            "base_seconds_each": statistics.median(theirs),
            "ratio": statistics.median(ratios),
            "ratio_least": min(ratios),
            "ratio_most": max(ratios),
        }
