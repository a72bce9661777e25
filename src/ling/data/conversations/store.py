"""Tokenised samples in files: written once in the order of the records, then mapped.

Of each part (`train`, `valid`) there are the `ids` and `labels` of all samples one behind the other
and the `lengths` of the samples. Of pairs, sample 2n is the chosen answer and 2n + 1 the rejected.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np

from ..index_files import Arrays, IndexWriter
from ..indexed import token_dtype
from .supervise import NOT_TRAINED

Part = Literal["train", "valid"]
PARTS: tuple[Part, ...] = ("train", "valid")
# Ids that wait to be written.
_BUFFER = 1 << 18


class Sample(NamedTuple):
    """Ids and labels of one sample."""

    ids: Sequence[int] | np.ndarray
    labels: Sequence[int] | np.ndarray


class StoreWriter:
    """Appends samples to the arrays of an index."""

    def __init__(self, writer: IndexWriter, vocab_size: int) -> None:
        self._writer, self._dtype = writer, np.dtype(token_dtype(vocab_size))
        self._waiting: dict[Part, list[Sample]] = {part: [] for part in PARTS}
        self._size = 0
        for part in PARTS:
            self._flush(part)

    def add(self, part: Part, samples: Sequence[Sample]) -> None:
        """Write samples behind those of this part."""
        self._waiting[part] += samples
        self._size += sum(len(s.ids) for s in samples)
        if self._size >= _BUFFER:
            self._flush_all()

    def _flush_all(self) -> None:
        for part in PARTS:
            self._flush(part)
        self._size = 0

    def _flush(self, part: Part) -> None:
        samples, self._waiting[part] = self._waiting[part], []
        for name in ("ids", "labels"):
            wide = np.fromiter(chain.from_iterable(map(attrgetter(name), samples)), np.int64)
            wide[wide == NOT_TRAINED] = _hole(self._dtype)
            self._writer.append(f"{part}_{name}", wide.astype(self._dtype))
        lengths = np.array([len(s.ids) for s in samples], np.int32)
        self._writer.append(f"{part}_lengths", lengths)

    def finish(self, report: dict[str, Any]) -> None:
        """Keep what is to be said of the samples beside them."""
        self._flush_all()
        text = json.dumps(report).encode()
        self._writer.append("report", np.frombuffer(text, np.uint8))


def read_report(arrays: Arrays) -> dict[str, Any]:
    """What `finish` was given."""
    return json.loads(arrays["report"].tobytes())


class SampleStore:
    """Samples one behind the other, of which the first begins at id number `start`."""

    def __init__(
        self, ids: np.ndarray, labels: np.ndarray, lengths: np.ndarray, start: int = 0
    ) -> None:
        self._ids, self._labels, self.lengths = ids, labels, lengths
        self._start = start

    @classmethod
    def of(cls, arrays: Arrays, part: Part) -> SampleStore:
        """Those that a `StoreWriter` wrote."""
        return cls(arrays[f"{part}_ids"], arrays[f"{part}_labels"], arrays[f"{part}_lengths"])

    def section(self, first: int, count: int) -> SampleStore:
        """Some of the samples."""
        start = self._start + int(self.lengths[:first].sum(dtype=np.int64))
        return SampleStore(self._ids, self._labels, self.lengths[first : first + count], start)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Sample:
        """Both as i64, -100 where nothing is learned."""
        end = self._start + int(self._ends[i])
        part = slice(end - int(self.lengths[i]), end)
        labels = self._labels[part].astype(np.int64)
        labels[labels == _hole(self._labels.dtype)] = NOT_TRAINED
        return Sample(self._ids[part].astype(np.int64), labels)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.lengths, dtype=np.int64)


def _hole(dtype: np.dtype[Any]) -> int:
    """What stands for a label that is not learned: no vocabulary of this dtype has this id."""
    return np.iinfo(dtype).max
