"""Threads of a run: as many as there are free cores, up to what was asked for.

torch's threads wait for each other many times a step. With another program on one of two cores a
step takes ten times as long as with one thread, so a run falls to fewer while a core is taken.
Losses do not depend on the number of threads (tests/train/test_threads.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ..ops.cores import FreeCores

INTERVAL_S = 0.5
# A first look before the first step: with one thread too many it may take a minute.
FIRST_LOOK_S = 0.2


class Threads:
    """Sets torch's number of threads between steps, and sets it back at the end, whatever ended it.

    `most` is what the recipe or torch chose.
    """

    def __init__(self, log: Callable[[str], None], cores: FreeCores | None = None) -> None:
        self.most, self._log = torch.get_num_threads(), log
        self._cores, self._next, self._logged = cores or FreeCores(), 0.0, False

    def adapt(self) -> None:
        """Called between two steps; looks twice a second."""
        now = time.monotonic()
        if self.most == 1 or now < self._next:
            return
        self._next = now + INTERVAL_S
        free = self._cores.count()
        wanted = self.most if free is None else min(self.most, free)
        if wanted == torch.get_num_threads():
            return
        torch.set_num_threads(wanted)
        if not self._logged and wanted < self.most:
            self._logged = True
            self._log(f"other programs take cores: {wanted} of {self.most} threads until they end")

    def __enter__(self) -> Threads:
        if self.most > 1:
            time.sleep(FIRST_LOOK_S)
            self.adapt()
        return self

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self.most)
