"""Rows of whole documents: only those longer than a row are cut, and the rest is padding.

An order is a pure function of the documents' lengths, the row length and the seed, however many
rows are read: epoch by epoch the documents are shuffled, and `_GROUP` of them at a time are put
into rows by best fit, whose order is shuffled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from ..errors import DataError
from .best_fit import best_fit
from .index_files import IndexFolder, IndexWriter
from .indexed import IndexedDataset
from .samples import Sample, count_up, sample_of

_GROUP = 1 << 16


class WholeDocuments:
    """At least `num_samples` rows of `seq_length` tokens, or what `epochs` passes hold.

    A document of n ids has n - 1 predictions; one with more than `seq_length` of them is cut into
    pieces that share the id at the cut, so that every prediction inside a document is made once.
    Behind the pieces of a row there is padding without loss. The loss across the end of a piece
    counts only where `eod` says that the document ends there and `eod_mask_loss` is off. `index`
    and `content` as in `GPTSamples`. Raises `DataError` when no document has two ids.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        *,
        seq_length: int,
        num_samples: int,
        seed: int,
        epochs: float | None = None,
        eod: int | None = None,
        eod_mask_loss: bool = True,
        index: IndexFolder | None = None,
        content: str | None = None,
    ) -> None:
        self.dataset, self.seq_length = dataset, seq_length
        self.eod, self.eod_mask_loss = eod, eod_mask_loss
        key = {
            "what": "best fit, version 1",
            "content": content,
            "seq_length": seq_length,
            "num_samples": num_samples,
            "epochs": epochs,
            "seed": seed,
        }
        kept = index if index is not None and content is not None else IndexFolder()
        order = _Order(dataset, seq_length, seed)
        if not order.predictions:
            raise DataError("no document has two tokens or more", path=dataset.bin)
        arrays = kept.get(key, lambda w: order.write(w, num_samples, epochs))
        self._documents, self._pieces = arrays["documents"], arrays["pieces"]
        self._starts = arrays["starts"]
        # After each group: rows, predictions, ids.
        self._groups = arrays["groups"].reshape(-1, 3)
        self._per_epoch = order.predictions
        self._size = len(self._starts) - 1
        if epochs is not None:
            rows, predictions = self._groups[:, 0], self._groups[:, 1]
            self._size = int(np.interp(epochs * order.predictions, predictions, rows))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> Sample:
        S = self.seq_length
        ids = np.full(S + 1, 0 if self.eod is None else self.eod, np.int64)
        ends = [0]
        for k in range(int(self._starts[i]), int(self._starts[i + 1])):
            document, offset = int(self._documents[k]), int(self._pieces[k]) * S
            take = min(S + 1, int(self.dataset.sequence_lengths[document]) - offset)
            ids[ends[-1] : ends[-1] + take] = self.dataset.get(document, offset, take)
            ends.append(ends[-1] + take)
        return self._masked(ids, np.array(ends[1:]))

    def _masked(self, ids: np.ndarray, ends: np.ndarray) -> Sample:
        """The row of pieces that end before these positions, and of padding."""
        sample = sample_of(ids, self.eod, eod_mask_loss=self.eod_mask_loss)
        sample.loss_mask[ends[-1] - 1 :] = 0.0
        inside = sample.borders[sample.borders <= ends[-1]]
        ends = ends[ends <= self.seq_length]
        untrue = ends if self.eod_mask_loss or self.eod is None else ends[ids[ends - 1] != self.eod]
        sample.loss_mask[untrue - 1] = 0.0
        sample.borders = np.union1d(inside, ends)
        return sample

    def epochs_of(self, rows: int) -> float:
        """How often the documents are read by this many rows."""
        found = np.interp(rows, self._groups[:, 0], self._groups[:, 1])
        return float(found) / self._per_epoch

    @property
    def padding(self) -> float:
        """The share of padding in all rows."""
        rows, _, ids = self._groups[-1].tolist()
        return 1 - ids / (rows * (self.seq_length + 1))


class _Order:
    """Writes which pieces of which documents each row has."""

    def __init__(self, dataset: IndexedDataset, seq_length: int, seed: int) -> None:
        self.lengths, self.seq_length, self.seed = dataset.sequence_lengths, seq_length, seed
        blocks = (self.lengths[k : k + _GROUP] for k in range(0, len(dataset), _GROUP))
        self.predictions = sum(int(np.maximum(b - 1, 0).sum(dtype=np.int64)) for b in blocks)

    def write(self, writer: IndexWriter, num_samples: int, epochs: float | None) -> None:
        """`documents` and `pieces` row by row, where each row `starts`, and `groups`."""
        total = np.zeros(3, np.int64)
        writer.append("groups", total)
        placed = 0
        most = math.inf if epochs is None else epochs * self.predictions
        for documents, rng in self._documents(writer):
            pieces, starts, counts = self._group(documents, rng)
            writer.append("documents", pieces[0].astype(np.int32))
            writer.append("pieces", pieces[1].astype(np.uint32))
            writer.append("starts", placed + starts)
            placed += len(pieces[0])
            total += counts
            writer.append("groups", total)
            if total[0] >= num_samples or total[1] >= most:
                break
        writer.append("starts", np.array([placed]))

    def _documents(self, writer: IndexWriter) -> Iterator[tuple[np.ndarray, np.random.RandomState]]:
        """Groups of documents, epoch after epoch, and what shuffles their rows."""
        for epoch in itertools.count():
            rng = np.random.RandomState([self.seed, epoch])
            order = writer.scratch(np.int32, len(self.lengths))
            count_up(order, 0)
            rng.shuffle(order)
            for start in range(0, len(order), _GROUP):
                yield order[start : start + _GROUP], rng

    def _group(
        self, documents: np.ndarray, rng: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pieces [document and number, pieces] row by row, where each row starts in them, and
        counts of rows, predictions and ids.
        """
        left = self.lengths[documents].astype(np.int64) - 1
        documents, left = documents[left > 0], left[left > 0]
        cuts = -(-left // self.seq_length)
        first = np.repeat(np.cumsum(cuts) - cuts, cuts)
        number = np.arange(len(first)) - first
        ids = np.minimum(np.repeat(left, cuts) - number * self.seq_length, self.seq_length) + 1
        row, rows = best_fit(ids, self.seq_length + 1)
        row = rng.permutation(rows)[row]
        by_row, many = np.argsort(row, kind="stable"), np.bincount(row, minlength=rows)
        pieces = np.stack([np.repeat(documents, cuts), number])[:, by_row]
        return pieces, np.cumsum(many) - many, np.array([rows, left.sum(), ids.sum()])
