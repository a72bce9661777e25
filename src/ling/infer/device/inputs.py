"""What a forward pass needs beside weights and pages, as one block of whole numbers that goes to
the device in one copy.

Legend: T rows · B requests · Q rows of each · W entries of a page table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..pages import PAGE, Segment, pages_for


class Shape(NamedTuple):
    """Sizes of a batch: B requests, `rows` of tokens in all, W pages a request."""

    requests: int
    rows: int
    pages: int

    @property
    def numbers(self) -> int:
        """Length of the block."""
        return 4 * self.rows + self.requests * (1 + self.pages)


@dataclass(frozen=True)
class StepInputs:
    """Views of the block on the device: int32, slots as int64 (what indexing takes).

    `kept` are the rows that stand for tokens of the caller, in its order; the rest fills up.
    """

    block: Tensor
    shape: Shape

    def _part(self, i: int) -> Tensor:
        rows = self.shape.rows
        return self.block[i * rows : (i + 1) * rows]

    @property
    def tokens_T(self) -> Tensor:
        return self._part(0)

    @property
    def positions_T(self) -> Tensor:
        return self._part(1)

    @property
    def slots_T(self) -> Tensor:
        return self._part(2).long()

    @property
    def kept(self) -> Tensor:
        return self._part(3)

    @property
    def lengths_B(self) -> Tensor:
        start = 4 * self.shape.rows
        return self.block[start : start + self.shape.requests]

    @property
    def table_BW(self) -> Tensor:
        start = 4 * self.shape.rows + self.shape.requests
        return self.block[start:].view(self.shape.requests, self.shape.pages)


def flat_shape(segments: Sequence[Segment]) -> Shape:
    """The shape of rows as they are, without any that fill up."""
    rows = sum(s.stop - s.start for s in segments)
    return Shape(len(segments), rows, most_pages(segments))


def most_pages(segments: Sequence[Segment]) -> int:
    """Entries of the longest page table that these rows read."""
    return max(pages_for(_length(s)) for s in segments)


def most_rows(segments: Sequence[Segment]) -> int:
    """Rows of the request that has most of them."""
    return max(s.stop - s.start for s in segments)


def _length(s: Segment) -> int:
    return s.first + s.stop - s.start


def flat_block(tokens: Sequence[int], segments: Sequence[Segment], shape: Shape) -> np.ndarray:
    """The block of rows in the caller's order."""
    return _block(tokens, segments, shape, [s.start for s in segments], 0)


def even_block(
    tokens: Sequence[int], segments: Sequence[Segment], shape: Shape, scratch: int
) -> np.ndarray:
    """The block of a batch in which each of B requests has the same number of rows.

    Rows and requests that fill up write to the page `scratch`, which the latter read, too.
    """
    each = shape.rows // shape.requests
    return _block(tokens, segments, shape, [i * each for i in range(len(segments))], scratch)


def _block(
    tokens: Sequence[int],
    segments: Sequence[Segment],
    shape: Shape,
    starts: Sequence[int],
    scratch: int,
) -> np.ndarray:
    block = np.zeros(shape.numbers, np.int32)
    inputs = StepInputs(torch.from_numpy(block), shape)
    ids, positions, kept = (x.numpy() for x in (inputs.tokens_T, inputs.positions_T, inputs.kept))
    slots = inputs._part(2).numpy()
    lengths, table = inputs.lengths_B.numpy(), inputs.table_BW.numpy()
    slots[:], lengths[:], table[:] = scratch * PAGE, 1, scratch
    given = np.asarray(tokens, np.int32)
    for i, (s, start) in enumerate(zip(segments, starts, strict=True)):
        count, length = s.stop - s.start, _length(s)
        pages = np.asarray(s.pages[: pages_for(length)], np.int32)
        at, rows = np.arange(s.first, length, dtype=np.int32), slice(start, start + count)
        ids[rows], positions[rows] = given[s.start : s.stop], at
        slots[rows] = pages[at // PAGE] * PAGE + at % PAGE
        kept[s.start : s.stop] = np.arange(start, start + count)
        lengths[i], table[i, : len(pages)] = length, pages
    return block
