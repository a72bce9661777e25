"""The checkpoint that a run goes on from: the newest whose files are what was written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from ..checkpoint.run_folder import checkpoints, match, recorded_hashes
from ..errors import CheckpointError
from .parallel.group import World


def newest(
    world: World,
    run: Path,
    log: Callable[[str], None],
    wanted: Callable[[Path], bool] = lambda folder: True,
) -> Path | None:
    """The newest intact checkpoint that is `wanted`; a damaged newer one is named and passed over.

    All ranks call this and return what rank 0 sees, but each hashes its share of the files. Raises
    `CheckpointError` when there are checkpoints but none is intact.
    """
    found, damaged = world.as_first(lambda: checkpoints(run)), 0
    for folder in reversed(found):
        if not _intact(world, folder):
            log(f"warning: checkpoint {folder.name} is damaged, looking for an older one")
            damaged += 1
        elif world.as_first(partial(wanted, folder)):
            return folder
    if found and damaged == len(found):
        world.together(lambda: _none_intact(run))
    return None


def _intact(world: World, folder: Path) -> bool:
    recorded = world.as_first(lambda: recorded_hashes(folder))
    if recorded is None:
        return False
    share = dict(list(recorded.items())[world.rank :: world.size])
    return all(world.gather(world.together(lambda: match(folder, share))))


def _none_intact(run: Path) -> NoReturn:
    raise CheckpointError(f"{run}: no checkpoint is intact; remove them to start again")
