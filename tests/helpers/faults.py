"""What ranks do when one of them has trouble: `torchrun faults.py FOLDER` on 2 ranks.

All cases run in the same processes, since starting these takes longest; each leaves
FOLDER/<case>-ended-<rank>, what the rank ended with.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import layouts
import torch

from ling.config.recipe import PretrainConfig
from ling.errors import DataError, LingError
from ling.train import loop, saving
from ling.train.batches import BatchReader
from ling.train.parallel.group import World, join

DEGREES = {"dp_shard": 2, "ep": 2}


def recipe(folder: Path, **model: Any) -> PretrainConfig:
    made = layouts.recipe(folder, "fault", DEGREES)
    train = dataclasses.replace(made.train, steps=6)
    checkpoint = dataclasses.replace(made.checkpoint, interval_steps=2)
    return dataclasses.replace(made, train=train, checkpoint=checkpoint, model_overrides=model)


def full(layout: Any, folder: Path, *more: Any) -> Any:
    """A writer on a disk that gets full."""
    yield {}
    (folder / layout.file).write_bytes(b"half")
    raise OSError(28, "No space left on device")


def case(world: World, folder: Path, name: str, run: Callable[[], int]) -> None:
    try:
        ended = str(run())
    except LingError as err:
        ended = str(err)
    except SystemExit as err:
        ended = f"silent {err.code}"
    # Not in the run's folder, which rank 0 may be removing.
    (folder / f"{name}-ended-{world.rank}").write_text(ended)
    if name != "lost":
        world.gather(None)


def unreadable(read: Any) -> Any:
    """`BatchReader.read` of a file that ends too early."""

    def failing(reader: Any, first: int, rows: int) -> Any:
        if first >= 16:
            raise DataError("ends too early", path="text.bin")
        return read(reader, first, rows)

    return failing


def main(folder: Path) -> None:
    world = join(torch.device("cpu"), None)
    cfg, odd = recipe(folder), world.rank == 1

    def run(name: str, made: PretrainConfig = cfg) -> int:
        return loop.run_in(world, made, folder / name, layouts.quiet)

    case(world, folder, "whole", lambda: run("whole"))
    writes = iter([saving.write_part, full])
    with patch.object(saving, "write_part", lambda *a: (next(writes) if odd else first)(*a)):
        case(world, folder, "disk", lambda: run("disk"))
    left = sorted(p.name for p in (folder / "disk" / "checkpoints").iterdir())
    (folder / "disk" / f"left-{world.rank}").write_text(" ".join(left))
    world.gather(None)
    case(world, folder, "disk", lambda: run("disk"))
    # A file that was copied wrongly to one of the hosts.
    data = dataclasses.replace(cfg.data, prefix=[str(folder / ("other" if odd else "text"))])
    with patch.object(World, "same", not_the_recipe(World.same)):
        case(world, folder, "data", lambda: run("data", dataclasses.replace(cfg, data=data)))
    with patch.object(loop, "code_version", lambda: f"of rank {world.rank}"):
        case(world, folder, "version", lambda: run("version"))
    later, monotonic = 86400.0 * 400 * world.rank, time.monotonic
    with (
        patch.object(time, "time", lambda t=time.time: t() + later),
        patch.object(time, "monotonic", lambda: monotonic() + later),
    ):
        case(world, folder, "clocks", lambda: run("clocks"))
    world.lead(lambda: shutil.copytree(folder / "whole", folder / "model"))
    case(world, folder, "model", lambda: run("model", recipe(folder, hidden_size=96)))
    # The last one: this rank ends in the middle of a step, the other waits for it.
    with patch.object(
        BatchReader, "read", unreadable(BatchReader.read) if odd else BatchReader.read
    ):
        case(world, folder, "lost", lambda: run("lost"))


first = saving.write_part


def not_the_recipe(same: Any) -> Any:
    """`World.same` that lets recipes with other paths pass, as on hosts with the same path."""
    return lambda self, what, value: None if what == "recipe" else same(self, what, value)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
