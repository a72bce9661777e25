"""How far a long piece of work is: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..text import size

Log = Callable[[str], None]
_INTERVAL_S = 10.0


class Progress:
    """Bytes done of about `total`; `log` gets the lines where there is no terminal."""

    def __init__(self, total: int, what: str, log: Log) -> None:
        self._total, self._what, self._log = total, what, log
        self._done, self._last = 0, time.monotonic()
        self._bar: Any = None
        if log is print and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="B", unit_scale=True, desc=what, leave=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, count: int) -> None:
        """`count` more bytes are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last > _INTERVAL_S:
            self._last = time.monotonic()
            self._log(f"{self._what}: {size(self._done)} of about {size(self._total)}")
