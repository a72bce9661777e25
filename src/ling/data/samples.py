"""Megatron's order of training samples, each a pure function of its number.

The order: docs/concepts/training.md#sample-order.
Resume is therefore one integer: how many rows have been consumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..errors import DataError
from .index_files import IndexFolder, IndexWriter
from .indexed import IndexedDataset

_BLOCK = 1 << 20


@dataclass
class Sample:
    """One row of S tokens.

    `tokens` and `labels` (the next tokens) i64 [S]; `loss_mask` f32 [S], 1.0 where the loss
    counts; `borders` i64, ascending positions of 1 to S before which a document ends. Rows of one
    batch are of one length, or are `lengthened` to that of the longest; the last `padding` tokens
    of a row stand for nothing. `extra` are arrays that an objective wants besides, under the same
    names and in the same shapes in all rows.
    """

    tokens: np.ndarray
    labels: np.ndarray
    loss_mask: np.ndarray
    borders: np.ndarray
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    padding: int = 0

    @property
    def documents(self) -> np.ndarray:
        """i64 [S]: the number of each token's document in the row, from 0."""
        ends = np.zeros(len(self.tokens) + 1, np.int64)
        ends[self.borders] = 1
        return ends.cumsum()[:-1]


def lengthened(sample: Sample, length: int) -> Sample:
    """The row with padding without loss behind it, as a document of its own, up to `length`."""
    have = len(sample.tokens)
    if have == length:
        return sample
    padded: dict[str, Any] = {
        k: np.pad(getattr(sample, k), (0, length - have)) for k in _BY_POSITION
    }
    more, borders = length - have, np.append(sample.borders, have)
    return replace(sample, **padded, borders=borders, padding=sample.padding + more)


_BY_POSITION = ("tokens", "labels", "loss_mask")


class Samples(Protocol):
    """What a trainer reads rows from; pre-training, packed conversations and pairs alike."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample: ...


def sample_of(ids: np.ndarray, eod: int | None, *, eod_mask_loss: bool) -> Sample:
    """The row of S + 1 consecutive ids; documents end at `eod`, after which no loss counts."""
    tokens = ids[:-1]
    mask = np.ones(len(tokens), np.float32)
    ended = np.zeros(len(tokens), bool) if eod is None else tokens == eod
    if eod_mask_loss:
        mask[ended] = 0.0
    return Sample(tokens, ids[1:], mask, np.flatnonzero(ended) + 1)


def split_part(count: int, shares: Sequence[float] | None, part: int) -> tuple[int, int]:
    """First and last + 1 of the `count` documents in part number `part`; all without shares.

    Megatron-LM's borders, rounded half to even.
    """
    if shares is None:
        return 0, count
    total = math.fsum(shares)
    borders = [round(math.fsum(shares[:k]) / total * count) for k in (part, part + 1)]
    return borders[0], borders[1]


class GPTSamples:
    """At least `num_samples` rows of `seq_length` tokens from shuffled, concatenated documents.

    With `epochs` the tokens are read that often at most, and there may be fewer rows. `documents`
    = (start, stop) takes a part of the documents (a split); `eod` with `eod_mask_loss` drops the
    loss where the input ends a document. The order is kept in files of `index`, named by `content`,
    which stands for what the files of the dataset have. Raises `DataError` when the documents hold
    no token.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        *,
        seq_length: int,
        num_samples: int,
        seed: int,
        epochs: float | None = None,
        documents: tuple[int, int] | None = None,
        eod: int | None = None,
        eod_mask_loss: bool = True,
        index: IndexFolder | None = None,
        content: str | None = None,
    ) -> None:
        self.dataset, self.seq_length = dataset, seq_length
        self.eod, self.eod_mask_loss = eod, eod_mask_loss
        start, stop = documents or (0, len(dataset))
        if not 0 <= start <= stop <= len(dataset):
            raise DataError(f"documents {start} to {stop} of {len(dataset)}", path=dataset.idx)
        self.num_tokens = int(dataset.sequence_lengths[start:stop].sum(dtype=np.int64))
        most = num_samples
        if epochs is not None:
            most = int((epochs * self.num_tokens - 1) // max(seq_length, 1))
        if self.num_tokens < 1 or seq_length < 1 or min(num_samples, most) < 1:
            raise DataError(
                f"{self.num_tokens} tokens for {min(num_samples, most)} rows of {seq_length}; "
                "all must be above 0",
                path=dataset.bin,
            )
        order = _MegatronOrder(start, stop, self.num_tokens, seq_length, min(num_samples, most))
        self._size = order.count if epochs is None else min(order.count, most)
        key = {"what": "megatron, version 1", "seed": seed, **vars(order)}
        # Without a name of the contents its lengths might be those of another dataset.
        kept = index if index is not None and content is not None else IndexFolder()
        arrays = kept.get({**key, "content": content}, lambda w: order.write(w, dataset, seed))
        self.document_index, self.shuffle_index = arrays["documents"], arrays["rows"]
        self._ends = arrays["ends"]

    @property
    def sample_index(self) -> np.ndarray:
        """[rows + 1, 2] position in the document index and offset where each row starts."""
        starts = np.arange(len(self.shuffle_index) + 1, dtype=np.int64) * self.seq_length
        position = np.searchsorted(self._ends, starts, side="right")
        begins = np.concatenate([[0], self._ends])[position]
        return np.stack([position, starts - begins], axis=1)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> Sample:
        start = int(self.shuffle_index[i]) * self.seq_length
        ids = _run_of(self.dataset, self.document_index, self._ends, start, self.seq_length + 1)
        return sample_of(ids, self.eod, eod_mask_loss=self.eod_mask_loss)

    def epochs_of(self, rows: int) -> float:
        """How often the tokens are read by this many rows."""
        return rows * self.seq_length / self.num_tokens


@dataclass
class _MegatronOrder:
    """Megatron's shuffled documents and rows; the fields decide them, with a seed."""

    start: int
    stop: int
    tokens: int
    seq_length: int
    num_samples: int

    @property
    def epochs(self) -> int:
        return -(-(self.num_samples * self.seq_length + 1) // self.tokens)

    @property
    def count(self) -> int:
        """Rows in all epochs."""
        return (self.epochs * self.tokens - 1) // self.seq_length

    def _separate(self) -> int | None:
        """The rows before a last epoch of which only a part is used: it is not to mix with the
        others. None when all epochs are shuffled together.
        """
        before_last = ((self.epochs - 1) * self.tokens - 1) // self.seq_length
        whole = (self.tokens - 1) // self.seq_length
        short = self.num_samples - before_last < int(0.8 * whole)
        return before_last if self.epochs > 1 and short else None

    def write(self, writer: IndexWriter, dataset: IndexedDataset, seed: int) -> None:
        """`documents` i32 and where each `ends` i64 in tokens, `rows` by their number on disk."""
        one, cut = self.stop - self.start, self._separate()
        documents = writer.new("documents", np.int32, one * self.epochs)
        rows = writer.new("rows", np.uint32 if self.count < 1 << 32 else np.int64, self.count)
        for epoch in range(self.epochs):
            count_up(documents[epoch * one : (epoch + 1) * one], self.start)
        count_up(rows, 0)
        together = one * (self.epochs - (cut is not None))
        rng = np.random.RandomState(seed)
        # The order of these draws is part of the format.
        cut = self.count if cut is None else cut
        for part in (documents[:together], documents[together:], rows[:cut], rows[cut:]):
            rng.shuffle(part)
        ends, at = writer.new("ends", np.int64, len(documents)), 0
        for block in _blocks(len(documents)):
            lengths = dataset.sequence_lengths[documents[block]]
            ends[block] = at + np.cumsum(lengths, dtype=np.int64)
            at = int(ends[block][-1])


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))


def count_up(array: np.ndarray, first: int) -> None:
    """Fill with first, first + 1, ..."""
    for block in _blocks(len(array)):
        array[block] = np.arange(first + block.start, first + block.stop)


def _run_of(
    dataset: IndexedDataset,
    documents: Sequence[int] | np.ndarray,
    ends: np.ndarray,
    start: int,
    count: int,
) -> np.ndarray:
    """i64 tokens `start` to `start` + `count` of `documents`, one behind the other."""
    pieces: list[np.ndarray] = []
    position, at = int(np.searchsorted(ends, start, side="right")), start
    while at < start + count:
        document, end = int(documents[position]), int(ends[position])
        take = min(start + count, end) - at
        offset = at - (end - int(dataset.sequence_lengths[document]))
        pieces.append(dataset.get(document, offset, take))
        at, position = at + take, position + 1
    return np.concatenate(pieces).astype(np.int64)


class RowsInOrder:
    """Consecutive rows of a token file, unshuffled; each row overlaps the last by one token.

    With `rows` only the first of them: of a large file, less is kept in memory.
    `documents` = (start, stop) takes a part of the documents.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        *,
        seq_length: int,
        eod: int | None,
        eod_mask_loss: bool,
        rows: int | None = None,
        documents: tuple[int, int] | None = None,
    ) -> None:
        self.dataset, self.seq_length = dataset, seq_length
        self.eod, self.eod_mask_loss = eod, eod_mask_loss
        self._first, stop = documents or (0, len(dataset))
        tokens = None if rows is None else rows * seq_length + 1
        self._ends = _ends_of_first(dataset.sequence_lengths[self._first : stop], tokens)
        have = int(self._ends[-1]) if len(self._ends) else 0
        self._size = max((have if tokens is None else min(have, tokens)) - 1, 0) // seq_length

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> Sample:
        start, count = i * self.seq_length, self.seq_length + 1
        documents = range(self._first, self._first + len(self._ends))
        ids = _run_of(self.dataset, documents, self._ends, start, count)
        return sample_of(ids, self.eod, eod_mask_loss=self.eod_mask_loss)


def _ends_of_first(lengths: np.ndarray, tokens: int | None) -> np.ndarray:
    """Where in tokens the first documents end, as many of them as have `tokens` (None: all)."""
    parts, at = [np.empty(0, np.int64)], 0
    for block in _blocks(len(lengths)):
        if tokens is not None and at >= tokens:
            break
        parts.append(at + np.cumsum(lengths[block], dtype=np.int64))
        at = int(parts[-1][-1])
    return np.concatenate(parts)
