"""Which samples share a row: epoch by epoch a function of the lengths, the seed and its number.

Each epoch is shuffled and packed again, so a row is found from its number alone, and a run resumes
inside an epoch from one integer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..best_fit import best_fit
from ..index_files import Arrays, IndexFolder, IndexWriter
from ..samples import Sample, count_up
from .store import Sample as StoredSample
from .store import SampleStore
from .supervise import NOT_TRAINED

Packing = Literal["best_fit", "off", "megatron"]
# Samples that are packed together.
_GROUP = 1 << 16
# Epochs whose files stay open.
_OPEN_EPOCHS = 4


@dataclass
class RowOrder:
    """The samples of each row; rows of all epochs are counted on. An epoch without a row is one
    where `packing: megatron` fills none.
    """

    lengths: np.ndarray
    seq_length: int
    seed: int
    packing: Packing
    index: IndexFolder = field(default_factory=IndexFolder)
    content: str = ""

    def __post_init__(self) -> None:
        self._open: dict[int, Arrays] = {}
        self._ends: list[int] = []

    def epoch(self, number: int) -> Arrays:
        """`samples` row by row, and where each row `starts` in them; one start more than rows."""
        if number not in self._open:
            if len(self._open) >= _OPEN_EPOCHS:
                self._open.pop(next(iter(self._open)))
            key = {
                "what": "rows of conversations, version 1",
                "content": self.content,
                "packing": self.packing,
                "seq_length": self.seq_length,
                "seed": self.seed,
                "epoch": number,
            }
            kept = self.index if self.content else IndexFolder()
            self._open[number] = kept.get(key, lambda w: self._write(w, number))
        return self._open[number]

    def rows_in(self, epoch: int) -> int:
        """Rows of one epoch."""
        return len(self.epoch(epoch)["starts"]) - 1

    def rows(self, epochs: float) -> int:
        """Rows of the first epochs; of a part of one, its first rows."""
        whole, part = divmod(epochs, 1)
        count = sum(self.rows_in(e) for e in range(int(whole)))
        return count + (round(part * self.rows_in(int(whole))) if part else 0)

    def samples(self, row: int) -> np.ndarray:
        """Numbers of the samples in a row."""
        while not self._ends or row >= self._ends[-1]:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self.rows_in(len(self._ends)))
        epoch = int(np.searchsorted(self._ends, row, side="right"))
        row -= self._ends[epoch - 1] if epoch else 0
        found = self.epoch(epoch)
        return found["samples"][found["starts"][row] : found["starts"][row + 1]]

    def _write(self, writer: IndexWriter, epoch: int) -> None:
        rng = np.random.RandomState([self.seed, epoch])
        order = writer.scratch(np.int32, len(self.lengths))
        count_up(order, 0)
        rng.shuffle(order)
        at = 0
        writer.append("samples", np.empty(0, np.int32))
        for samples, counts in _packed(self.packing, order, self.lengths, self.seq_length, rng):
            writer.append("samples", samples.astype(np.int32))
            ends = at + np.cumsum(counts, dtype=np.int64)
            writer.append("starts", ends - counts)
            at += len(samples)
        writer.append("starts", np.array([at]))


Rows = tuple[np.ndarray, np.ndarray]
"""Samples row by row, and how many each row has."""


def _packed(
    packing: Packing,
    order: np.ndarray,
    lengths: np.ndarray,
    seq_length: int,
    rng: np.random.RandomState,
) -> Iterator[Rows]:
    if packing == "megatron":
        packs = list(megatron_packs(lengths[order].tolist(), seq_length))
        counts = np.array([len(p) for p in packs], np.int64)
        yield order[np.array(list(itertools.chain(*packs)), np.int64)], counts
        return
    for start in range(0, len(order), _GROUP):
        group = order[start : start + _GROUP]
        if packing == "off":
            yield group, np.ones(len(group), np.int64)
            continue
        row, rows = best_fit(lengths[group].astype(np.int64), seq_length)
        row = rng.permutation(rows)[row]
        yield group[np.argsort(row, kind="stable")], np.bincount(row, minlength=rows)


def megatron_packs(lengths: list[int], seq_length: int) -> Iterator[list[int]]:
    """The original training's packs, each the numbers of the samples that count in it.

    Samples are taken in order up to `seq_length` + 1 ids. One that does not fit is read as the end
    of its pack and as the first of the next, and is overwritten in the first by padding, as is the
    last one of a pack of exactly `seq_length` + 1 ids. An unfinished pack is dropped.
    """
    pack: list[int] = []
    count, i = 0, 0
    while i < len(lengths):
        n, room = lengths[i], seq_length + 1
        if count + n > room and not count:
            i += 1
            continue
        pack, count = [*pack, i], count + n
        i += count <= room
        if count >= room:
            yield pack[:-1]
            pack, count = [], 0


@dataclass
class ConversationRows:
    """The first `size` rows of an order: samples one behind the other, then padding.

    What follows a sample is not learned in it, and samples are documents that do not see each other
    but with `packing: megatron`. With `packing: off` a row is as long as its sample.
    """

    store: SampleStore
    order: RowOrder
    size: int
    pad: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < self.size:
            raise IndexError(i)
        samples = [self.store[int(k)] for k in self.order.samples(i)]
        packing, width = self.order.packing, self.order.seq_length
        if packing == "off":
            width = len(samples[0].ids)
        return row_of(samples, width, self.pad, isolated=packing != "megatron")

    @property
    def padding(self) -> float:
        """The share of padding in the rows of the first epoch."""
        found, width = self.order.epoch(0), self.order.seq_length
        used = int(self.order.lengths[found["samples"]].sum(dtype=np.int64))
        rows = len(found["starts"]) - 1
        return 0.0 if self.order.packing == "off" or not rows else 1 - used / (rows * width)


def row_of(samples: list[StoredSample], width: int, pad: int, *, isolated: bool) -> Sample:
    """A row of `width` tokens, at least those of the samples; `labels` are the next tokens, also
    where none is learned.

    The last token of a sample predicts nothing: no loss may count before a border.
    """
    ids, wanted = np.full(width + 1, pad, np.int64), np.full(width + 1, NOT_TRAINED, np.int64)
    at, ends = 0, []
    for sample in samples:
        end = at + len(sample.ids)
        ids[at:end] = sample.ids
        wanted[at + 1 : end] = sample.labels[1:]  # its first id follows another sample
        ends.append(at := end)
    counts = wanted[1:] != NOT_TRAINED
    labels = np.where(counts, wanted[1:], ids[1:])
    borders = [end for end in ends if end <= width] if isolated else []
    mask, padding = counts.astype(np.float32), max(width - at, 0)
    return Sample(ids[:-1], labels, mask, np.array(borders, np.int64), padding=padding)
