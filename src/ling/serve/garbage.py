"""When Python looks for cyclic garbage: while nothing runs, so that no stream waits for it."""

from __future__ import annotations

import asyncio
import gc

OLD_EVERY = 1000
"""Rounds over the younger objects before a round over all of them, where it never gets idle: some
7,000 streams, of which 20 KB each are garbage until then."""
IDLE_S = 1.0
MANY = 64
"""Requests that have left enough behind to look for it."""


class Garbage:
    """Counts requests, and collects what they left behind when the last one has ended.

    No thread runs meanwhile, and over the objects of 1,000 streams that takes 0.2 s; Python itself
    would do it several times while they are open.
    """

    def __init__(self) -> None:
        self._before: tuple[int, int, int] | None = None
        self._num_running = self._num_ended = 0

    def begin(self) -> None:
        """Take over; what is there now, the model above all, is never looked at again."""
        self._before = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*self._before[:2], OLD_EVERY)

    def end(self) -> None:
        """Leave it to Python again."""
        if self._before is not None:
            gc.set_threshold(*self._before)
            gc.unfreeze()
            self._before = None

    def started(self) -> None:
        """A request runs; on the event loop."""
        self._num_running += 1

    def ended(self) -> None:
        """A request has ended; on the event loop."""
        self._num_running -= 1
        self._num_ended += 1
        if self._before is not None and not self._num_running and self._num_ended >= MANY:
            asyncio.get_running_loop().call_later(IDLE_S, self._collect)

    def _collect(self) -> None:
        if self._before is not None and not self._num_running and self._num_ended >= MANY:
            self._num_ended = 0
            gc.collect()
