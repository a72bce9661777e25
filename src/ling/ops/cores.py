"""How many of this process's cores other programs leave free."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

STAT = Path("/proc/stat")
# A core counts as free while others take less than a quarter of it.
SHARE = 0.25
# Above this share of the cores, other programs disturb a measurement.
DISTURBED = 0.1


def busy_seconds(stat: str, cores: set[int], ticks_per_s: int) -> float:
    """Processor seconds that were not idle on the given cores, from the text of `/proc/stat`."""
    total = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, *rest = (int(f) for f in fields)
            total += user + nice + system + sum(rest[:3])  # interrupts, and what a host took
    return total / ticks_per_s


class FreeCores:
    """Cores that other programs left free between two calls, of those this process may use.

    `own` are the processor seconds of what does not count as another program: this process, unless
    a benchmark names the ones that it measures.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        own: Callable[[], float] = time.process_time,
    ) -> None:
        self.cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._clock, self._own = clock, own
        self._last = self._read()

    def _read(self) -> tuple[float, float, float] | None:
        """Time, and busy seconds of all programs and of our own; None where unknown."""
        try:
            stat = STAT.read_text()
            busy = busy_seconds(stat, self.cores, os.sysconf("SC_CLK_TCK"))
        except (OSError, ValueError):
            return None
        return self._clock(), busy, self._own()

    def taken(self) -> float | None:
        """Cores that other programs took on average since the last call; None where unknown."""
        before, now = self._last, self._read()
        self._last = now
        if before is None or now is None or now[0] <= before[0]:
            return None
        wall, busy, own = (b - a for a, b in zip(before, now, strict=True))
        return max(busy - own, 0.0) / wall

    def count(self) -> int | None:
        """Free cores since the last call, at least 1; None where they cannot be known."""
        taken = self.taken()
        return None if taken is None else max(1, int(len(self.cores) - taken + SHARE))


def load_in_words(taken: float | None, cores: int) -> str:
    """What a benchmark says about the load that other programs made while it ran."""
    if taken is None:
        return "the load by other programs is unknown here"
    share = taken / cores
    text = f"other programs took {share:.0%} of {cores} cores"
    return f"{text}, more than a tenth: measure again" if share > DISTURBED else text
