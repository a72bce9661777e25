"""The files that a unit of work becomes, until all of them are joined.

`00012.train.bin` has the token ids of unit 12, `00012.train.len` one i32 a document with how many
it has; `valid` likewise, and `00012.valid.jsonl` the text of the documents held out. Last comes
`00012.json`: what is in these files, and how long each is. A unit without it is done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ..errors import RunError, UsageError
from ..files.atomic import read_json, write_atomic
from .reading import Document

SPLITS = ("train", "valid")
_ENDS = ("train.bin", "train.len", "valid.bin", "valid.len", "valid.jsonl")


@dataclass
class PartCounts:
    """Documents of one split, and the bytes of their text."""

    documents: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Part:
    """The files of one unit."""

    folder: Path
    number: int

    def path(self, end: str) -> Path:
        """One of its files, such as `train.bin`."""
        return self.folder / f"{self.number:05}.{end}"

    def is_done(self) -> bool:
        """Whether the unit was finished."""
        return self.path("json").is_file()

    def counts(self) -> dict[str, PartCounts]:
        """What a finished unit has; `UsageError` when a file is not as it was written."""
        note = read_json(self.path("json"))
        for end in _ENDS:
            path = self.path(end)
            if not path.is_file() or path.stat().st_size != note["files"][end]:
                raise UsageError(
                    f"{path}: missing or not {note['files'][end]} bytes long; delete "
                    f"{self.path('json').name} beside it and prepare again"
                )
        return {name: PartCounts(**note[name]) for name in SPLITS}


class PartWriter:
    """Writes the files of a part; they get their names on a clean exit only.

    Two processes may write the same part, as a job that was queued again may. Raises `RunError`
    where writing fails (full disk).
    """

    def __init__(self, part: Part, dtype: Any) -> None:
        self._part, self._dtype = part, np.dtype(dtype).newbyteorder("<")
        self._counts = {name: PartCounts() for name in SPLITS}
        self._lengths: dict[str, list[int]] = {name: [] for name in SPLITS}
        self._mark = f".{os.uname().nodename if hasattr(os, 'uname') else ''}-{os.getpid()}.tmp"

    def __enter__(self) -> PartWriter:
        with self._disk():
            self._files: dict[str, BinaryIO] = {e: self._tmp(e).open("wb") for e in _ENDS}
        return self

    def add(self, split: str, document: Document, ids: Sequence[int], eod: int, size: int) -> None:
        """Append a document of `size` bytes, whose ids are followed by `eod`."""
        row = np.empty(len(ids) + 1, self._dtype)
        row[:-1], row[-1] = ids, eod
        counts, lengths = self._counts[split], self._lengths[split]
        counts.documents += 1
        counts.bytes += size
        lengths.append(len(row))
        with self._disk():
            self._files[f"{split}.bin"].write(row.data)
            if split == "valid":
                record = {"text": document.text, "name": document.name}
                line = json.dumps(record, ensure_ascii=False) + "\n"
                self._files["valid.jsonl"].write(line.encode())
            if len(lengths) == 4096:
                self._flush_lengths(split)

    def _flush_lengths(self, split: str) -> None:
        numbers = np.array(self._lengths[split], "<i4")
        self._files[f"{split}.len"].write(numbers.tobytes())
        self._lengths[split] = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._disk():
                if kind is None:
                    for split in SPLITS:
                        self._flush_lengths(split)
                self._close(sync=kind is None)
                if kind is None:
                    self._publish()
        finally:
            for end in _ENDS:
                self._tmp(end).unlink(missing_ok=True)

    def _close(self, *, sync: bool) -> None:
        for file in self._files.values():
            if sync:
                file.flush()
                os.fsync(file.fileno())
            file.close()

    def _publish(self) -> None:
        sizes = {end: self._tmp(end).stat().st_size for end in _ENDS}
        for end in _ENDS:
            os.replace(self._tmp(end), self._part.path(end))
        counts = {name: dataclasses.asdict(c) for name, c in self._counts.items()}
        write_atomic(self._part.path("json"), json.dumps({**counts, "files": sizes}))

    def _tmp(self, end: str) -> Path:
        path = self._part.path(end)
        return path.with_name(path.name + self._mark)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise RunError(f"{self._part.folder}: could not write: {err.strerror}") from None
