"""One conversion by several processes, on one machine or on a shared disk.

Each rank writes its shards into a folder of its own beside the target; whoever completes the last
part puts them together. No rank waits for another, and a rank that was stopped just runs again.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint.open import layout_for, open_source
from ..checkpoint.sink import SinkOptions
from ..errors import UsageError
from ..files.atomic import atomic_folder, put_in_place
from ..files.inplace import PARTS, stays
from .options import Options
from .plan import plan
from .target import check_space, check_target, final_path, restore
from .transfer import Log


def convert_part(
    source: str | Path,
    target: str | Path,
    *,
    rank: int,
    world_size: int,
    log: Log | None = None,
    **options: Any,
) -> bool:
    """Write the shards of one rank; True for the call that completes `target`.

    All ranks give the same arguments. Formats without shards are refused.
    """
    wanted, source, target = Options(**options), Path(source), final_path(Path(target))
    if not 0 <= rank < world_size:
        raise UsageError(f"RANK is {rank}, expected 0 to {world_size - 1} (WORLD_SIZE)")
    if layout_for(wanted.to, SinkOptions()) is None:
        raise UsageError(f"`{wanted.to}` is not written in shards, run one process")
    if wanted.mtp == "separate":
        raise UsageError("`--mtp separate` has no shards to share, run one process")
    if wanted.merge is not None:
        raise UsageError("`--merge` reads the adapter in one process: run one")
    if target.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{target}: several processes cannot write into the source")
    restore(target, log)
    check_target(source, target, wanted)
    parts = _parts_folder(source, target, wanted, world_size)
    mine = parts / f"rank-{rank}"
    if not mine.exists():
        with contextlib.closing(open_source(source)) as opened:
            job = plan(opened, parts / f"rank-{rank}.tmp", wanted, rank=rank, world_size=world_size)
            check_space(target, sum(job.files.values()) // world_size)
            with atomic_folder(mine) as folder:
                job.write(folder, log)
    with _locked(parts):
        return _put_together(parts, target, world_size)


def _parts_folder(source: Path, target: Path, wanted: Options, world_size: int) -> Path:
    """Named by what is converted and how, so that parts of another conversion are never mixed."""
    found = [(p.name, p.lstat()) for p in (source, *source.rglob("*"))]
    stats = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
    text = json.dumps([str(wanted), world_size, str(source.resolve()), sorted(stats)])
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return _beside(target) / f"{_parts_prefix(target)}{digest}"


def _beside(target: Path) -> Path:
    """A place from which files can be renamed into the target."""
    return target if stays(target) else target.parent


def _parts_prefix(target: Path) -> str:
    return f"{PARTS}-" if stays(target) else f"{target.name}.parts-"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _put_together(parts: Path, target: Path, world_size: int) -> bool:
    folders = [parts / f"rank-{i}" for i in range(world_size)]
    if not all(folder.exists() for folder in folders):
        return False
    whole = parts / "whole"
    whole.mkdir(exist_ok=True)
    for folder in folders:
        for path in folder.iterdir():
            os.replace(path, whole / path.name)  # index and config.json are the same in all
    if any(whole.iterdir()):  # else it is in place, and only the rest was left to do
        put_in_place(whole, target, replace=True)
    for stale in _beside(target).glob(f"{glob.escape(_parts_prefix(target))}{'[0-9a-f]' * 12}"):
        shutil.rmtree(stale, ignore_errors=True)
    return True
