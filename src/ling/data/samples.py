"""Megatron's order of training samples, each a pure function of its number.

The order: docs/concepts/training.md#sample-order.
Resume is therefore one integer: how many rows have been consumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import DataError, UsageError
from .indexed import IndexedDataset


@dataclass
class Sample:
    """One row of S tokens.

    `tokens` and `labels` (the next tokens) i64 [S]; `loss_mask` f32 [S], 1.0 where the loss
    counts; `borders` i64, ascending positions of 1 to S before which a document ends.
    """

    tokens: np.ndarray
    labels: np.ndarray
    loss_mask: np.ndarray
    borders: np.ndarray

    @property
    def documents(self) -> np.ndarray:
        """i64 [S]: the number of each token's document in the row, from 0."""
        ends = np.zeros(len(self.tokens) + 1, np.int64)
        ends[self.borders] = 1
        return ends.cumsum()[:-1]


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


class GPTSamples:
    """At least `num_samples` rows of `seq_length` tokens from shuffled, concatenated documents.

    `documents` = (start, stop) takes a part of the documents (a split); `eod` with
    `eod_mask_loss` drops the loss where the input ends a document. Raises `DataError` when the
    documents hold no token.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        *,
        seq_length: int,
        num_samples: int,
        seed: int,
        documents: tuple[int, int] | None = None,
        eod: int | None = None,
        eod_mask_loss: bool = True,
    ) -> None:
        self.dataset, self.seq_length, self.num_samples = dataset, seq_length, num_samples
        self.eod, self.eod_mask_loss = eod, eod_mask_loss
        start, stop = documents or (0, len(dataset))
        if not 0 <= start <= stop <= len(dataset):
            raise DataError(f"documents {start} to {stop} of {len(dataset)}", path=dataset.idx)
        tokens = int(dataset.sequence_lengths[start:stop].sum(dtype=np.int64))
        if tokens < 1 or seq_length < 1 or num_samples < 1:
            raise DataError(
                f"{tokens} tokens for {num_samples} rows of {seq_length}; all must be above 0",
                path=dataset.bin,
            )
        self._build(np.arange(start, stop, dtype=np.int32), tokens, seed)

    def _build(self, documents: np.ndarray, tokens: int, seed: int) -> None:
        seq = self.seq_length
        epochs = -(-(self.num_samples * seq + 1) // tokens)
        before_last = ((epochs - 1) * tokens - 1) // seq
        # A last epoch of which only a part is used would otherwise mix into the others.
        short = self.num_samples - before_last < int(0.8 * ((tokens - 1) // seq))
        separate = epochs > 1 and short
        rng = np.random.RandomState(seed)
        rounds = [np.tile(documents, epochs - separate)] + [documents.copy()] * separate
        count = (epochs * tokens - 1) // seq
        cut = before_last if separate else count
        rows = [np.arange(cut, dtype=np.int64), np.arange(cut, count, dtype=np.int64)]
        # The order of these draws is part of the format.
        for part in [*rounds, *rows]:
            rng.shuffle(part)
        self.document_index = np.concatenate(rounds)
        self.shuffle_index = np.concatenate(rows)
        self._ends = np.cumsum(self.dataset.sequence_lengths[self.document_index], dtype=np.int64)

    @property
    def sample_index(self) -> np.ndarray:
        """[rows + 1, 2] position in the document index and offset where each row starts."""
        starts = np.arange(len(self.shuffle_index) + 1, dtype=np.int64) * self.seq_length
        position = np.searchsorted(self._ends, starts, side="right")
        begins = np.concatenate([[0], self._ends])[position]
        return np.stack([position, starts - begins], axis=1)

    def __len__(self) -> int:
        return len(self.shuffle_index)

    def __getitem__(self, i: int) -> Sample:
        ids = self._read(int(self.shuffle_index[i]) * self.seq_length)
        return sample_of(ids, self.eod, eod_mask_loss=self.eod_mask_loss)

    def _read(self, start: int) -> np.ndarray:
        """The row's seq_length + 1 tokens."""
        pieces: list[np.ndarray] = []
        position = int(np.searchsorted(self._ends, start, side="right"))
        have, want = 0, self.seq_length + 1
        while have < want:
            end = int(self._ends[position])
            document = int(self.document_index[position])
            offset = start + have - (end - int(self.dataset.sequence_lengths[document]))
            take = min(want - have, end - start - have)
            pieces.append(self.dataset.get(document, offset, take))
            have += take
            position += 1
        return np.concatenate(pieces).astype(np.int64)


class RowsInOrder:
    """Consecutive rows of a token file, unshuffled; each row overlaps the last by one token."""

    def __init__(
        self, dataset: IndexedDataset, *, seq_length: int, eod: int | None, eod_mask_loss: bool
    ) -> None:
        self.ids = np.concatenate([dataset.get(i).astype(np.int64) for i in range(len(dataset))])
        self.seq_length, self.eod, self.eod_mask_loss = seq_length, eod, eod_mask_loss

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.seq_length

    def __getitem__(self, i: int) -> Sample:
        start = i * self.seq_length
        ids = self.ids[start : start + self.seq_length + 1]
        return sample_of(ids, self.eod, eod_mask_loss=self.eod_mask_loss)


class Mixture:
    """Several sample sources in fixed shares: each row comes from the one furthest behind its own.

    It ends after `num_samples` rows, or where a source has none left.
    """

    def __init__(
        self, parts: Sequence[Samples], weights: Sequence[float], num_samples: int | None = None
    ) -> None:
        if not parts or len(parts) != len(weights):
            raise UsageError(f"a mixture of {len(parts)} datasets has {len(weights)} weights")
        if not all(math.isfinite(w) and w > 0 for w in weights):
            raise UsageError("the weights of a mixture must be above 0")
        self.parts = list(parts)
        share = [w / math.fsum(weights) for w in weights]
        left = [len(p) for p in parts]
        self.source, self.row = _blend(share, left, num_samples or sum(left))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Sample:
        return self.parts[int(self.source[i])][int(self.row[i])]


def _blend(share: list[float], left: list[int], size: int) -> tuple[np.ndarray, Any]:
    """Source and row of each sample; Megatron's greedy rule, ties to the lower number."""
    source, row = np.zeros(size, np.int16), np.zeros(size, np.int64)
    taken, parts = [0] * len(share), range(len(share))
    for i in range(size):
        due = max(i, 1)
        best = max(parts, key=lambda k: share[k] * due - taken[k])
        if taken[best] == left[best]:
            return source[:i].copy(), row[:i].copy()
        source[i], row[i] = best, taken[best]
        taken[best] += 1
    return source, row
