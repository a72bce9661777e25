"""Tokens of each expert over a run of any length, added up over spans of steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The end of a run is this share of its spans.
_END_SHARE = 0.1


class LoadMap:
    """Tokens of each expert over the run, in at most `2 * bins` spans of equal length."""

    def __init__(self, bins: int = 24) -> None:
        self._bins, self.width = bins, 1
        self.layers: list[str] = []
        self.spans: list[tuple[int, int]] = []
        self.counts: list[np.ndarray] = []  # [layers, experts] of each span

    def add(self, step: int, loads: dict[str, Sequence[int]]) -> None:
        """Add the loads of a step; other layers or experts than before start again.

        A span that the run went back into is left out: its steps cannot be told apart any more.
        Raises `ValueError` for what are no counts of tokens by layer and expert.
        """
        counts = _counts(loads)
        if self.counts and (self.layers != list(loads) or self.counts[0].shape != counts.shape):
            self.spans, self.counts, self.width = [], [], 1
        self.layers = list(loads)
        while self.spans and self.spans[-1][1] >= step:
            self.spans.pop()
            self.counts.pop()
        last = self.spans[-1] if self.spans else None
        if last is not None and step - last[0] < self.width:
            self.spans[-1] = (last[0], step)
            self.counts[-1] += counts
            return
        self.spans.append((step, step))
        self.counts.append(counts)
        if len(self.spans) > 2 * self._bins:
            self._halve()

    def _halve(self) -> None:
        pairs = range(0, len(self.spans) - 1, 2)
        rest = len(self.spans) % 2
        spans = [(self.spans[n][0], self.spans[n + 1][1]) for n in pairs]
        counts = [self.counts[n] + self.counts[n + 1] for n in pairs]
        self.spans = spans + self.spans[len(self.spans) - rest :]
        self.counts = counts + self.counts[len(self.counts) - rest :]
        self.width *= 2

    def merged(self, spans: int) -> LoadMap:
        """The same in at most this many spans."""
        result = self
        while len(result.spans) > max(spans, 1):
            result = result._with(result.spans, result.counts)
            result._halve()
        return result

    def at_end(self) -> LoadMap:
        """The last tenth of the spans as one."""
        last = max(round(len(self.spans) * _END_SHARE), 1)
        span = (self.spans[-last][0], self.spans[-1][1])
        return self._with([span], [np.sum(self.counts[-last:], axis=0)])

    def shares(self) -> np.ndarray:
        """Loads [spans, layers, experts] as multiples of their layer's mean."""
        counts = np.stack(self.counts)
        shares: np.ndarray = counts / np.maximum(counts.mean(-1, keepdims=True), 1e-9)
        return shares

    def _with(self, spans: list[tuple[int, int]], counts: list[np.ndarray]) -> LoadMap:
        new = LoadMap(self._bins)
        new.layers, new.spans, new.counts = self.layers, spans, counts
        return new


def _counts(loads: dict[str, Sequence[int]]) -> np.ndarray:
    counts = np.array(list(loads.values()), float)
    if counts.ndim != 2 or not counts.size or not ((counts >= 0) & (counts < 2**53)).all():
        raise ValueError("loads are no counts of tokens by layer and expert")
    return counts
