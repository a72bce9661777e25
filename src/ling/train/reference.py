"""Log-probabilities of pairs under the model that a run began from: made once, before its first
step, into a file of the run folder.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..data.conversations.pair_rows import PairRows
from ..errors import RunError, UsageError
from ..files.atomic import make_folder
from .adapt import keeps_base
from .batches import make_batch
from .heldout import Share
from .lora.adapter import adapter_off
from .objectives.answers import log_probabilities
from .parallel.shard import release

if TYPE_CHECKING:
    from .setup import Run

# Pairs of a rank between two looks at whether to stop, when they are written, too.
_PAIRS = 8
_MEND = "remove it, and it is made again; after steps of `method: full` use another --out"
# Seconds between two lines of progress.
_EVERY_S = 20


@dataclass
class Reference:
    """logps_P2 of all pairs P of the data by their numbers; float32, NaN where not made yet."""

    logps_P2: np.ndarray

    def of(self, numbers_B: Tensor) -> Tensor:
        """logps_B2 of these pairs."""
        return torch.from_numpy(self.logps_P2[numbers_B.numpy()])

    @property
    def missing(self) -> list[int]:
        """Numbers of the pairs that are not made yet."""
        return np.flatnonzero(np.isnan(self.logps_P2).any(1)).tolist()


def make_reference(run: Run, pairs: PairRows, part: str, stops: Callable[[], bool]) -> Reference:
    """Those in the file, and the others made now; all ranks call this.

    The reference is the model without its adapter, in full fine-tuning the weights that it begins
    with. Once `stops` what is made is kept and the rest is left.
    """
    file = ReferenceFile(run.out / "reference" / f"{part}-{_key(run, pairs)}.npy", pairs.count)
    world = run.state.world
    reference = world.first(file.read)
    todo = reference.missing
    if not todo:
        return reference
    if run.state.step and not keeps_base(run.recipe):
        raise UsageError(
            f"{file.path}: {len(todo):,} log-probabilities of the reference are not in it, and the "
            f"weights that they are made from have changed in {run.state.step} steps; use another "
            "--out"
        )
    run.log(f"reference: log-probabilities of {len(todo):,} of {pairs.count:,} pairs ({part})")
    network = run.state.network
    network.eval()
    with adapter_off(network):
        _make(run, pairs, reference, file, stops)
    network.train()
    release(network)
    return reference


def _key(run: Run, pairs: PairRows) -> str:
    """Of what decides the log-probabilities."""
    train = run.recipe.train
    known = (run.state.data["files"], run.state.start, train.dtype, train.fp8, pairs.count)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ReferenceFile:
    """`logps_P2` as a `.npy`, of which rows are filled in."""

    path: Path
    count: int

    def read(self) -> Reference:
        """A copy, of a new file all NaN. `UsageError` where it is not of these pairs."""
        if not self.path.exists():
            return Reference(np.full((self.count, 2), np.nan, np.float32))
        return Reference(np.array(self._open("r")))

    def write(self, numbers: list[int], logps_n2: np.ndarray) -> None:
        """Fill in the rows of some pairs."""
        if not self.path.exists():
            make_folder(self.path.parent)
            tmp = self.path.with_suffix(".tmp")
            with tmp.open("wb") as new:
                np.save(new, np.full((self.count, 2), np.nan, np.float32))
            tmp.replace(self.path)
        kept = self._open("r+")
        kept[numbers] = logps_n2
        kept.flush()

    def _open(self, mode: str) -> np.memmap:
        try:
            kept: np.memmap = np.lib.format.open_memmap(self.path, mode=mode)
        except (ValueError, OSError) as err:
            raise UsageError(f"{self.path}: unreadable ({err}); {_MEND}") from None
        if kept.shape != (self.count, 2) or kept.dtype != np.float32:
            raise UsageError(f"{self.path}: not the log-probabilities of these pairs; {_MEND}")
        return kept


def _make(
    run: Run,
    pairs: PairRows,
    reference: Reference,
    file: ReferenceFile,
    stops: Callable[[], bool],
) -> None:
    world, place = run.state.world, run.recipe.parallel.place(run.state.world.rank)
    share = Share(place.dp, run.recipe.parallel.dp, world.added)
    todo, told, done = reference.missing, time.monotonic(), 0
    size = _PAIRS * share.count
    for first in range(0, len(todo), size):
        numbers = todo[first : first + size]
        logps_n2 = torch.zeros(len(numbers), 2)
        for at, is_ours in share.rows(len(numbers)):
            found = _logps(run, pairs, numbers[at])
            if is_ours and place.cp == 0:  # of ranks that share rows one tells
                logps_n2[at] = found
        made = share.add(logps_n2).numpy()
        _check(numbers, made)
        reference.logps_P2[numbers] = made
        world.lead(partial(file.write, numbers, made))
        done += len(numbers)
        if time.monotonic() - told > _EVERY_S:
            told = time.monotonic()
            run.log(f"reference: {done:,} of {len(todo):,} pairs")
        if stops():
            return


def _logps(run: Run, pairs: PairRows, number: int) -> Tensor:
    """Of one pair alone: nothing beside it can change a bit."""
    batch = make_batch([pairs.pair(number)], isolate_documents=True).to(run.state.device)
    return log_probabilities(run.state.network, batch)[0].cpu()


def _check(numbers: list[int], logps_n2: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(logps_n2).all(1))
    if len(bad):
        raise RunError(
            f"the reference's log-probabilities of pair {numbers[bad[0]]:,} are not finite"
        )
