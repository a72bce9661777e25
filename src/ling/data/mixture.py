"""Several sources of rows in fixed shares, each row a pure function of its number.

Megatron's greedy rule: row i comes from the source with the largest share x max(i, 1) - rows taken,
ties to the first. The rule needs what was taken before, so that is noted every `BLOCK` rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import UsageError
from .index_files import IndexFolder, IndexWriter
from .samples import Sample, Samples

BLOCK = 1024
# Blocks that are computed side by side.
_LANES = 2048


class Mixture:
    """Rows of several sources; ends after `num_samples`, or where a source has none left."""

    def __init__(
        self,
        parts: Sequence[Samples],
        weights: Sequence[float],
        num_samples: int | None = None,
        index: IndexFolder | None = None,
    ) -> None:
        if not parts or len(parts) != len(weights):
            raise UsageError(f"a mixture of {len(parts)} datasets has {len(weights)} weights")
        if not all(math.isfinite(w) and w > 0 for w in weights):
            raise UsageError("the weights of a mixture must be above 0")
        self.parts = list(parts)
        self.share = [w / math.fsum(weights) for w in weights]
        left = [len(p) for p in parts]
        size = num_samples or sum(left)
        key = {"what": "mixture, version 1", "share": self.share, "left": left, "rows": size}

        def build(writer: IndexWriter) -> None:
            for states in taken_by_block(self.share, size):
                writer.append("taken", states)
                if (states[-1] > left).any():
                    break

        self._taken = (index or IndexFolder()).get(key, build)["taken"].reshape(-1, len(parts))
        self._size = self._end(size, np.array(left))
        self._block: tuple[int, list[int]] = (-1, [])

    def _end(self, size: int, left: np.ndarray) -> int:
        """The first row whose source has none left, at most `size`."""
        spent = (self._taken > left).any(axis=1)
        last = int(spent.argmax()) - 1 if spent.any() else len(self._taken) - 1
        taken = self._taken[last].tolist()
        for i, source in enumerate(_sources(self.share, taken, last * BLOCK), last * BLOCK):
            if i == size or taken[source] > left[source]:
                return i
        raise AssertionError

    def __len__(self) -> int:
        return self._size

    def source_of(self, i: int) -> tuple[int, int]:
        """Number of the source of row `i`, and of the row in it."""
        if not 0 <= i < self._size:
            raise IndexError(i)
        sources = self._sources_of(i // BLOCK)
        source, at = sources[i % BLOCK], i % BLOCK
        return source, int(self._taken[i // BLOCK, source]) + sources[:at].count(source)

    def taken(self, rows: int) -> list[int]:
        """How many of the first `rows` rows come from each source."""
        block, inside = divmod(rows, BLOCK)
        if block == len(self._taken):
            block, inside = block - 1, BLOCK
        first = self._sources_of(block)[:inside]
        return [int(n) + first.count(k) for k, n in enumerate(self._taken[block])]

    def __getitem__(self, i: int) -> Sample:
        source, row = self.source_of(i)
        return self.parts[source][row]

    def _sources_of(self, block: int) -> list[int]:
        if self._block[0] != block:
            rule = _sources(self.share, self._taken[block].tolist(), block * BLOCK)
            self._block = (block, [next(rule) for _ in range(BLOCK)])
        return self._block[1]


def _sources(share: Sequence[float], taken: list[int], first: int) -> Iterator[int]:
    """The rule: sources of row `first`, `first` + 1, ...; `taken` counts along."""
    parts, i = range(len(share)), first
    while True:
        due = max(i, 1)
        best = max(parts, key=lambda k: share[k] * due - taken[k])
        taken[best] += 1
        yield best
        i += 1


# ---- what was taken before each block ----------------------------------------------------------


def taken_by_block(share: Sequence[float], rows: int) -> Iterator[np.ndarray]:
    """i64 [blocks, sources], piece by piece: rows taken before row 0, `BLOCK`, 2 `BLOCK`, ...

    All blocks of a piece run side by side from guessed beginnings. Where the end of one is not
    what the next began with, the next runs again from there, until all of them meet: then each
    has begun where the rule leaves off, since the first has.
    """
    shares, before = np.array(share), np.zeros(len(share), np.int64)
    for first in range(0, -(-rows // BLOCK), _LANES):
        count = min(_LANES, -(-rows // BLOCK) - first)
        starts = np.arange(first, first + count) * BLOCK
        begin = _guess(shares, starts)
        begin[0] = before
        end = _after_a_block(shares, starts, begin)
        while len(late := np.flatnonzero((end[:-1] != begin[1:]).any(axis=1)) + 1):
            begin[late] = end[late - 1]
            end[late] = _after_a_block(shares, starts[late], begin[late])
        yield begin
        before = end[-1]


def _guess(shares: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Shares of the rows before, rounded so that they add up to them."""
    due = np.multiply.outer(starts, shares)
    taken = np.floor(due)
    order = np.argsort(np.argsort(taken - due, axis=1, kind="stable"), axis=1)
    more = starts - taken.sum(axis=1)
    return (taken + (order < more[:, None])).astype(np.int64)


def _after_a_block(shares: np.ndarray, starts: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Rows taken `BLOCK` rows later, for all blocks at once, with the arithmetic of the rule."""
    taken, lanes = begin.copy(), np.arange(len(starts))
    for i in range(BLOCK):
        due = np.maximum(starts + i, 1)
        taken[lanes, (np.multiply.outer(due, shares) - taken).argmax(axis=1)] += 1
    return taken
