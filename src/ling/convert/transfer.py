"""Moving tensors from a reader to a writer: a few at a time, in threads, with progress."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from ..checkpoint.sink import ExtentSink, RowSink, Sink
from ..checkpoint.source import ExtentSource, RowSource, Source
from ..text import size

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


def transfer(source: Source, sink: Sink, workers: int, progress: Progress) -> None:
    """Put every tensor that `sink` wants; each worker holds one at a time, or some of its rows.

    The first error of any worker is raised once all have stopped.
    """
    names, move = _Shared(iter(sink.names)), _way(source, sink)

    def work() -> None:
        for name in names:
            move(name)
            progress.add(source.stored_bytes(name))

    with ThreadPoolExecutor(workers, initializer=_one_thread_each) as pool:
        _finish([pool.submit(work) for _ in range(workers)], names)


def _way(source: Source, sink: Sink) -> Callable[[str], None]:
    """How these two move a tensor: within the kernel, by rows, or whole."""

    def whole(name: str) -> None:
        sink.put(name, source.tensor(name))

    if isinstance(source, ExtentSource) and isinstance(sink, ExtentSink):
        # Bytes that stay as they are go from file to file.
        extents, to_extent = source, sink

        def by_extent(name: str) -> None:
            extent = extents.extent(name)
            if extent is None or not to_extent.put_extent(name, extent):
                whole(name)

        return by_extent
    if isinstance(source, RowSource) and isinstance(sink, RowSink):
        rows, to_rows = source, sink

        def by_rows(name: str) -> None:
            if to_rows.takes_rows(name):
                to_rows.put_rows(name, rows.rows(name))
            else:
                whole(name)

        return by_rows
    return whole


def _one_thread_each() -> None:
    # The workers share the cores; torch's own threads on top would only wait for each other.
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
