"""Pairs of answers as rows: the chosen and the rejected one are two documents of a row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..samples import Sample
from .pack import RowOrder, row_of
from .store import SampleStore

PAIR = "pair"
"""In `Sample.extra`, the number of the pair in the data, whatever the order."""


@dataclass(frozen=True)
class PairRows:
    """The first `size` pairs of an order, as `Samples`; of a row, document 0 is the chosen answer
    behind its prompt, document 1 the rejected one behind the same.

    A row is as long as its pair needs, and at least of `width`.
    """

    store: SampleStore
    order: RowOrder
    size: int
    pad: int
    width: int = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < self.size:
            raise IndexError(i)
        (number,) = self.order.samples(i).tolist()
        return self.pair(number)

    @property
    def count(self) -> int:
        """Pairs in the data."""
        return len(self.store) // 2

    def pair(self, number: int) -> Sample:
        """The row of a pair by its number in the data."""
        both = [self.store[2 * number], self.store[2 * number + 1]]
        width = max(self.width, sum(len(s.ids) for s in both))
        row = row_of(both, width, self.pad, isolated=True)
        return replace(row, extra={PAIR: np.array([number])})


def pair_rows(
    store: SampleStore, seed: int, pad: int, rows: int | None = None, epochs: float = 1.0
) -> PairRows:
    """`rows` pairs, or those of `epochs`; each epoch in an order of its own, by `seed`."""
    count = len(store) // 2
    order = RowOrder(np.ones(count, np.int32), 1, seed, "off")
    return PairRows(store, order, max(order.rows(epochs), 1) if rows is None else rows, pad)
