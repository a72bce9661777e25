"""Megatron's order of training samples, each a pure function of its number (spec: training §4.3).

Resume is therefore one integer: how many rows have been consumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .indexed import IndexedDataset


@dataclass
class Sample:
    """One row: tokens, the next tokens, and 1.0 where the loss counts."""

    tokens: np.ndarray
    labels: np.ndarray
    loss_mask: np.ndarray


class GPTSamples:
    """`num_samples` rows of `seq_length` tokens from shuffled, concatenated documents.

    `documents` = (start, stop) takes a part of the documents (a split); `eod` with
    `eod_mask_loss` drops the loss where the input ends a document.
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
        self.dataset, self.seq_length = dataset, seq_length
        self.eod = eod if eod_mask_loss else None
        start, stop = documents or (0, len(dataset))
        tokens = int(dataset.sequence_lengths[start:stop].sum(dtype=np.int64))
        self._build(np.arange(start, stop, dtype=np.int32), tokens, num_samples, seed)

    def _build(self, docs: np.ndarray, tokens: int, num_samples: int, seed: int) -> None:
        seq = self.seq_length
        epochs = max(-(-(num_samples * seq + 1) // tokens), 1)
        before_last = ((epochs - 1) * tokens - 1) // seq
        separate = epochs > 1 and num_samples - before_last < int(0.8 * ((tokens - 1) // seq))
        rng = np.random.RandomState(seed)
        if separate:
            most = np.tile(docs, epochs - 1)
            rng.shuffle(most)
            last = docs.copy()
            rng.shuffle(last)
            self.document_index = np.concatenate([most, last])
        else:
            self.document_index = np.tile(docs, epochs)
            rng.shuffle(self.document_index)
        lengths = self.dataset.sequence_lengths[self.document_index].astype(np.int64)
        self._ends = np.cumsum(lengths)
        count = (epochs * tokens - 1) // seq
        parts = (
            [np.arange(before_last), np.arange(before_last, count)]
            if separate
            else [np.arange(count)]
        )
        for part in parts:
            rng.shuffle(part)
        self.shuffle_index = np.concatenate(parts)

    @property
    def sample_index(self) -> np.ndarray:
        """(position in the document index, offset) where each sample starts, and the end."""
        starts = np.arange(len(self.shuffle_index) + 1, dtype=np.int64) * self.seq_length
        position = np.searchsorted(self._ends, starts, side="right")
        begins = np.concatenate([[0], self._ends])[position]
        return np.stack([position, starts - begins], axis=1)

    def __len__(self) -> int:
        return len(self.shuffle_index)

    def __getitem__(self, i: int) -> Sample:
        start = int(self.shuffle_index[i]) * self.seq_length
        left, pieces = self.seq_length + 1, []
        position = int(np.searchsorted(self._ends, start, side="right"))
        while left:
            doc = int(self.document_index[position])
            offset = start - (int(self._ends[position - 1]) if position else 0)
            take = min(left, int(self._ends[position]) - start)
            pieces.append(self.dataset.get(doc, offset, take))
            start, left, position = start + take, left - take, position + 1
        ids = np.concatenate(pieces).astype(np.int64)
        mask = np.ones(self.seq_length, np.float32)
        if self.eod is not None:
            mask[ids[:-1] == self.eod] = 0.0
        return Sample(ids[:-1], ids[1:], mask)


class Mixture:
    """Several sources in fixed shares; row i comes from the one furthest behind its share."""

    def __init__(self, parts: Sequence[GPTSamples], weights: Sequence[float]) -> None:
        self.parts = list(parts)
        share = np.asarray(weights, np.float64) / sum(weights)
        count = min(int(len(p) / s) for p, s in zip(parts, share, strict=True))
        taken = np.zeros(len(parts), np.int64)
        self.source, self.row = np.zeros(count, np.int16), np.zeros(count, np.int64)
        size = count
        for i in range(count):
            best = int(np.argmax(share * (i + 1) - taken))
            if taken[best] >= len(parts[best]):
                size = i
                break
            self.source[i], self.row[i] = best, taken[best]
            taken[best] += 1
        self.source, self.row = self.source[:size], self.row[:size]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Sample:
        return self.parts[int(self.source[i])][int(self.row[i])]
