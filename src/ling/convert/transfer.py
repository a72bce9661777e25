"""Moving tensors from a reader to a writer: a few at a time, in threads, with progress."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from .sink import ExtentSink, Sink
from .source import ExtentSource, Source

Log = Callable[[str], None]
LINE_INTERVAL_S = 10.0


class Progress:
    """Bytes read and their rate: a bar on a terminal, else a line now and then."""

    def __init__(self, total: int, log: Log | None) -> None:
        self.total, self.done, self._log = total, 0, log
        self._start = self._last = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Any = None
        if log is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="B", unit_scale=True, dynamic_ncols=True)

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            if self._bar is not None:
                self._bar.update(count)
            elif self._log is not None and time.monotonic() - self._last > LINE_INTERVAL_S:
                self._last = time.monotonic()
                share = self.done / max(self.total, 1)
                self._log(f"{share:4.0%}  {size(self.done)} of {size(self.total)}  {self.rate()}")

    def rate(self) -> str:
        """Bytes per second since the start."""
        return f"{size(self.done / max(time.monotonic() - self._start, 1e-9))}/s"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def size(count: float) -> str:
    """A number of bytes in decimal units."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def transfer(source: Source, sink: Sink, workers: int, progress: Progress) -> None:
    """Put every tensor that `sink` wants; each worker holds one at a time.

    The first error of any worker is raised once all have stopped.
    """
    names = _Shared(iter(sink.names))

    def work() -> None:
        for name in names:
            if not _copy(source, sink, name):
                sink.put(name, source.tensor(name))
            progress.add(source.stored_bytes(name))

    with ThreadPoolExecutor(workers, initializer=_one_thread_each, initargs=(workers,)) as pool:
        _finish([pool.submit(work) for _ in range(workers)], names)


def _copy(source: Source, sink: Sink, name: str) -> bool:
    """Bytes that stay as they are go from file to file within the kernel."""
    if not (isinstance(source, ExtentSource) and isinstance(sink, ExtentSink)):
        return False
    extent = source.extent(name)
    return extent is not None and sink.put_extent(name, extent)


def _one_thread_each(workers: int) -> None:
    # The workers share the cores; torch's own threads on top would only wait for each other.
    if workers > 1:
        torch.set_num_threads(1)


class _Shared:
    """An iterator for several threads, which can be ended early."""

    def __init__(self, items: Iterator[str]) -> None:
        self._items, self._lock, self._ended = items, threading.Lock(), False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        with self._lock:
            if self._ended:
                raise StopIteration
            return next(self._items)

    def end(self) -> None:
        self._ended = True


def _finish(futures: list[Future[None]], names: _Shared) -> None:
    try:
        for future in futures:
            future.add_done_callback(lambda f: names.end() if f.exception() else None)
        for future in futures:
            future.result()
    finally:
        names.end()
