"""Units of work on all cores, each core a process of its own.

A process starts afresh rather than as a copy: threads of libraries do not survive a copy.
"""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ..errors import DataError, RunError
from .progress import Progress
from .units import Unit

R = TypeVar("R", covariant=True)
Watch = Callable[[int], None]
# Starting processes takes longer than tokenising this much text.
_WORTH_BYTES = 16 << 20
_POLL_S = 0.2


class Task(Protocol[R]):
    """Work on one unit; it tells `watch` how many bytes of text are done. Picklable."""

    def __call__(self, unit: Unit, watch: Watch) -> R: ...


def default_workers() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_units(
    task: Task[R],
    units: Sequence[Unit],
    workers: int | None,
    progress: Progress,
    cost: float = 1.0,
) -> Iterator[tuple[Unit, R]]:
    """The result of each unit, in the order in which they are done.

    `cost` is the work on a byte, that of tokenising it being 1; little work is done in this
    process. Raises what the task raises, `RunError` when a process was killed.
    """
    if cost * sum(u.size for u in units) < _WORTH_BYTES:
        for unit in units:
            yield unit, task(unit, progress.add)
        return
    workers = workers or default_workers()
    processes = min(workers, len(units))
    yield from _in_processes(task, units, processes, workers // processes, progress)


def _in_processes(
    task: Task[R], units: Sequence[Unit], processes: int, threads: int, progress: Progress
) -> Iterator[tuple[Unit, R]]:
    context = multiprocessing.get_context("spawn")
    done, shown = context.Value("q", 0), 0
    pool = futures.ProcessPoolExecutor(processes, context, _start, (task, threads, done))
    try:
        with _without_main():
            unit_of = {pool.submit(_run, unit): unit for unit in units}
        left = set(unit_of)
        while left:
            ready, left = futures.wait(left, _POLL_S, futures.FIRST_COMPLETED)
            now = done.value
            progress.add(now - shown)
            shown = now
            for future in ready:
                yield unit_of[future], future.result()
    except futures.BrokenExecutor:
        raise RunError(
            "a worker process was killed or could not start (out of memory? fewer `--workers` need "
            "less); the same command continues where it ended"
        ) from None
    finally:
        _stop(pool)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Processes started meanwhile do not import the user's script, which would run it again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _stop(pool: futures.ProcessPoolExecutor) -> None:
    """End the processes at once, in the middle of their units after an error or Ctrl-C."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.terminate()
    for process in processes:
        process.join()


# ---- in a worker process -----------------------------------------------------------------------

_worker: dict[str, Any] = {}


def _start(task: Any, threads: int, done: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # read by the tokenizer library at first use

    def watch(count: int) -> None:
        with done.get_lock():
            done.value += count

    _worker.update(task=task, watch=watch)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run(unit: Unit) -> Any:
    try:
        return _worker["task"](unit, _worker["watch"])
    except DataError as err:
        # A kind of its own need not survive the way back.
        raise DataError(err.reason, path=err.path, line=err.line) from None
