"""Large arrays that are computed once, kept in files, and mapped: no process has them in memory.

`<folder>/<hash of what decides them>/` has the arrays and `index.json`, which is written last and
has their SHA-256. Damaged or missing ones are made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError
from ..files.atomic import hash_file, make_folder

NOTE = "index.json"
Arrays = dict[str, np.ndarray]


class IndexWriter:
    """Makes the arrays of one index in a folder. Raises `RunError` for a full disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._dtypes: dict[str, np.dtype[Any]] = {}

    def new(self, name: str, dtype: Any, count: int) -> np.ndarray:
        """An array of `count` zeros, to be filled in place."""
        self._dtypes[name] = np.dtype(dtype)
        path, size = self.folder / name, count * np.dtype(dtype).itemsize
        with _disk(path), path.open("w+b") as file:
            if size:
                # Writing into a map of a full disk would kill the process; this fails instead.
                os.posix_fallocate(file.fileno(), 0, size)
        return _map(path, np.dtype(dtype), "r+")

    def append(self, name: str, values: np.ndarray) -> None:
        """Write `values` behind those of `name`, which begins as an empty array of their dtype."""
        mode = "ab" if name in self._dtypes else "wb"
        self._dtypes.setdefault(name, values.dtype)
        with _disk(self.folder / name), (self.folder / name).open(mode) as file:
            file.write(np.ascontiguousarray(values, self._dtypes[name]).data)

    def scratch(self, dtype: Any, count: int) -> np.ndarray:
        """An array of `count` zeros that is no part of the index."""
        array = self.new("scratch", dtype, count)
        (self.folder / "scratch").unlink()  # stays mapped
        del self._dtypes["scratch"]
        return array

    def finish(self, key: Mapping[str, Any]) -> None:
        """Write the note that makes the index complete."""
        files = {
            name: {"dtype": dtype.str, "sha256": hash_file(self.folder / name)}
            for name, dtype in self._dtypes.items()
        }
        with _disk(self.folder / NOTE), (self.folder / NOTE).open("w") as file:
            json.dump({"key": dict(key), "files": files}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True)
class IndexFolder:
    """Where indexes are kept; without a `folder` they are in unnamed temporary files."""

    folder: Path | None = None
    log: Callable[[str], None] = field(default=lambda _: None, compare=False)

    def get(self, key: Mapping[str, Any], build: Callable[[IndexWriter], None]) -> Arrays:
        """The arrays that `build` makes; from the files of before, if `key` decided them.

        Raises `UsageError` where nothing can be written, `RunError` for a full disk.
        """
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="ling-index-") as tmp:
                return _built(Path(tmp), key, build)
        text = json.dumps(key, sort_keys=True)
        final = self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        return _opened(final, key) or self._make(final, key, build)

    def _make(
        self, final: Path, key: Mapping[str, Any], build: Callable[[IndexWriter], None]
    ) -> Arrays:
        with _locked(make_folder(final.parent)):
            # Ranks that do not share a disk come here together; the first makes it.
            if found := _opened(final, key):
                return found
            if final.exists():
                self.log(f"{final}: damaged, made again")
            tmp = final.with_name(final.name + ".tmp")
            for old in (tmp, final):
                shutil.rmtree(old, ignore_errors=True)
            tmp.mkdir()
            try:
                _built(tmp, key, build)
                os.rename(tmp, final)
            finally:
                shutil.rmtree(tmp, ignore_errors=True)
            return _mapped(final)


def _built(folder: Path, key: Mapping[str, Any], build: Callable[[IndexWriter], None]) -> Arrays:
    writer = IndexWriter(folder)
    build(writer)
    writer.finish(key)
    return _mapped(folder)


def _opened(folder: Path, key: Mapping[str, Any]) -> Arrays | None:
    """The arrays of a complete index of this key whose bytes are those that were written."""
    try:
        note = json.loads((folder / NOTE).read_text("utf-8"))
        # Through JSON: a tuple comes back as a list.
        same = note["key"] == json.loads(json.dumps(key))
        whole = all(hash_file(folder / n) == f["sha256"] for n, f in note["files"].items())
        return _mapped(folder) if same and whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _mapped(folder: Path) -> Arrays:
    files = json.loads((folder / NOTE).read_text("utf-8"))["files"]
    return {name: _map(folder / name, np.dtype(f["dtype"]), "r") for name, f in files.items()}


def _map(path: Path, dtype: np.dtype[Any], mode: Any) -> np.ndarray:
    """A plain view of a map: numpy shuffles those fastest, with the same draws."""
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise RunError(f"could not write {path}: {err.strerror}") from None
