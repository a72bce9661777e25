"""What drafting has cost and brought so far: acceptance of drafts, time of steps and passes.

Times are kept relative to a scale that follows the machine, so that what was measured at a short
context, or beside another program, still compares with what is measured now.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

HALF_LIFE = 32
"""Steps after which a sample counts half."""
LEAST_WEIGHT = 8.0
"""Acceptance that is not measured again is never worth less than this many samples."""
LEAST_COST_WEIGHT = 0.5
"""The same for times, which vary less."""
STALE_STEPS = 512
DRIFT = 1.25
"""A scale that changed by this factor asks for measuring again what was measured before."""
UNKNOWN_ROW = 0.15
"""A further row beside one, before any was measured: optimistic, so that it is tried."""
DISTURBED = 2.0
"""A time this much above the expected one is another program's; counted as this much."""
FOLLOW = 0.3
SAME_BATCH = 16


class Aged:
    """A mean in which old samples fade, as the step number of `add` advances, until together they
    weigh `least` samples."""

    __slots__ = ("least", "step", "total", "weight")

    def __init__(self, least: float = LEAST_WEIGHT) -> None:
        self.total, self.weight, self.step, self.least = 0.0, 0.0, 0, least

    def add(self, value: float, step: int, weight: float = 1.0) -> None:
        """Add a sample of that weight."""
        if self.weight > self.least and step > self.step:
            kept = max(0.5 ** ((step - self.step) / HALF_LIFE), self.least / self.weight)
            self.total, self.weight = self.total * kept, self.weight * kept
        self.step = step
        self.total += value * weight
        self.weight += weight

    def mean(self, prior: float = 0.0, prior_weight: float = 0.0) -> float:
        """The mean with `prior` as this many samples more; `prior` itself without any sample."""
        weight = self.weight + prior_weight
        return (self.total + prior * prior_weight) / weight if weight else prior


class Acceptance:
    """How often the drafts of one source are right, by depth and by a bin of their confidence.

    Depth 1 is the first draft; a deeper one is only judged where those before it were right. What
    has few samples is drawn to the mean of its depth, and a depth to the one before.
    """

    PRIOR_WEIGHT = 4.0

    def __init__(self, prior: float, edges: Sequence[float]) -> None:
        self.prior, self.edges = prior, tuple(edges)
        self._depths: dict[int, Aged] = {}
        self._bins: dict[tuple[int, int], Aged] = {}

    def bin(self, confidence: float) -> int:
        """The bin of a confidence: how many edges it reaches."""
        return bisect_right(self.edges, confidence)

    def learn(self, depth: int, bin: int, right: bool, step: int) -> None:
        """A draft was right or wrong."""
        self._depths.setdefault(depth, Aged()).add(right, step)
        self._bins.setdefault((depth, bin), Aged()).add(right, step)

    def mean(self, depth: int) -> float:
        """Chance of a draft of that depth, whatever its confidence."""
        prior = self.mean(depth - 1) if depth > 1 else self.prior
        known = self._depths.get(depth)
        return prior if known is None else known.mean(prior, self.PRIOR_WEIGHT)

    def chance(self, depth: int, bin: int) -> float:
        """Chance of a draft of that depth and bin."""
        mean, known = self.mean(depth), self._bins.get((depth, bin))
        return mean if known is None else known.mean(mean, self.PRIOR_WEIGHT)

    def spread(self, depth: int) -> list[tuple[float, float]]:
        """(share, chance) of the bins in which drafts of that depth have been; shares sum to 1."""
        mean = self.mean(depth)
        bins = [a for (d, _), a in self._bins.items() if d == depth and a.weight]
        total = sum(a.weight for a in bins)
        if not total:
            return [(1.0, mean)]
        return [(a.weight / total, a.mean(mean, self.PRIOR_WEIGHT)) for a in bins]


class Costs:
    """Seconds of steps by their number of rows, and of drafting passes, in units of one scale.

    The scale is what one unit takes now, in seconds. It follows every measurement at once, so that
    a slower machine or a longer context is no difference between numbers of rows.
    """

    def __init__(self) -> None:
        self.scale = 0.0
        self._steps: dict[int, Aged] = {}
        self._scales: dict[int, float] = {}  # at the last measurement
        self._curve: list[tuple[int, float]] = []
        self._passes: dict[tuple[int, int], Aged] = {}

    def observe_step(self, rows: int, seconds: float, step: int) -> None:
        """A step verified `rows` rows, drafts included."""
        key = _bucket(rows)
        if not self.scale:
            self.scale = seconds or 1e-9
        known = self._steps.setdefault(key, Aged(LEAST_COST_WEIGHT))
        if known.weight >= 2:
            excess = min(seconds / self.scale / known.mean(), DISTURBED)
            self.scale *= 1 + FOLLOW * (excess - 1)
            seconds = min(seconds, DISTURBED * known.mean() * self.scale)
        known.add(seconds / self.scale, step)
        self._scales[key], self._curve = self.scale, []

    def observe_pass(self, depth: int, requests: int, seconds: float, step: int) -> None:
        """A pass gave each of the requests its draft of that depth."""
        if not self.scale:
            return
        known = self._passes.setdefault((min(depth, 2), _bucket(requests)), Aged(LEAST_COST_WEIGHT))
        units = seconds / self.scale
        if known.weight >= 2:
            units = min(units, DISTURBED * known.mean())
        known.add(units, step)

    def known(self, rows: int) -> bool:
        """Whether steps of about this many rows were measured often enough to compare with."""
        seen = self._steps.get(_bucket(rows))
        return seen is not None and seen.weight >= 2

    def age(self, rows: int, step: int) -> int:
        """Steps since a step of about this many rows was measured."""
        seen = self._steps.get(_bucket(rows))
        return step - seen.step if seen is not None else step + 1

    def drifted(self, rows: int) -> bool:
        """Whether the scale is another one than when about this many rows were measured."""
        change = self.scale / self._scales.get(_bucket(rows), self.scale or 1.0)
        return not 1 / DRIFT < change < DRIFT

    def plain(self, batch: int) -> float:
        """Units of a step of a batch without drafts, as measured."""
        seen = self._steps.get(_bucket(batch))
        return seen.mean() if seen is not None else self.step(batch)

    def _points(self) -> list[tuple[int, float]]:
        """Measured (rows, units). More rows never take less time: an older measurement is moved
        to where newer ones leave it, and left out where it is much older than both neighbours."""
        if not self._curve:
            newest = max((a.step for a in self._steps.values()), default=0)
            for r, a in sorted(self._steps.items(), key=lambda item: -item[1].step):
                low = max((u for s, u in self._curve if s < r), default=None)
                high = min((u for s, u in self._curve if s > r), default=None)
                if low is not None and high is not None and newest - a.step > STALE_STEPS:
                    continue
                units = a.mean() if low is None else max(a.mean(), low)
                self._curve.append((r, units if high is None else min(units, high)))
            self._curve.sort()
        return self._curve

    def step(self, rows: int) -> float:
        """Units of a step of `rows` rows: measured, or on the line through measured neighbours."""
        points = self._points()
        if not points:
            return 1 + UNKNOWN_ROW * (rows - 1)
        if len(points) == 1:
            (r, units), *_ = points
            return units * (1 + UNKNOWN_ROW * (rows - r) / r)
        above = next((i for i, (r, _) in enumerate(points) if r >= rows), len(points) - 1)
        (r0, u0), (r1, u1) = points[max(above, 1) - 1], points[max(above, 1)]
        slope = (u1 - u0) / (r1 - r0)
        # Rows share what they read, so further ones cost less; half is optimistic, to be tried.
        return u0 + slope * (rows - r0) if rows <= r1 else u1 + 0.5 * slope * (rows - r1)

    def row(self, depth: int, batch: int) -> float:
        """Units that a row costs which makes the drafts of a request `depth`, in a batch."""
        more = self.step((depth + 1) * batch) - self.step(depth * batch)
        return max(more, 0.0) / batch

    def draft_pass(self, depth: int, requests: int) -> float:
        """Units of a pass that drafts for this many requests, in units a request."""
        known = self._passes.get((min(depth, 2), _bucket(requests)))
        if known is None:
            return UNKNOWN_ROW / 3 * self.step(requests) / requests
        return known.mean() / requests


def _bucket(rows: int) -> int:
    """Rows that are measured together: eight numbers an octave above 16."""
    coarse = max(rows.bit_length() - 4, 0) if rows > SAME_BATCH else 0
    return rows >> coarse << coarse
