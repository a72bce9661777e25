"""What `ling convert` may write over, whether it fits, and how it appears there complete."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..checkpoint.gguf.sink import FILE as GGUF_FILE
from ..checkpoint.run_folder import MEGATRON_LATEST
from ..errors import RunError, UsageError
from ..files.atomic import atomic_folder, check_aside, put_back, scratch_folder
from ..files.inplace import is_free
from ..text import size
from .options import Options
from .transfer import Log

# What a folder that `--overwrite` may replace has at least one of.
_OURS = ("config.json", ".metadata", MEGATRON_LATEST, GGUF_FILE)


def final_path(target: Path) -> Path:
    """What a link or `.` stands for: the new target is made beside it and renamed."""
    return target.resolve() if os.path.islink(target) or target.name in ("", "..") else target


def restore(target: Path, log: Log | None) -> None:
    """Give the target back that a conversion with `overwrite` was about to replace when killed."""
    try:
        if put_back(target) and log is not None:
            log(f"{target}: put back; a conversion was stopped while replacing it")
    except OSError as err:
        raise UsageError(f"{target}: cannot write here: {err.strerror}") from None


def check_target(source: Path, target: Path, wanted: Options) -> None:
    """`UsageError` unless the target is free, empty, or a checkpoint that may be replaced."""
    try:
        _check_target(source, target, wanted)
    except OSError as err:
        raise UsageError(f"{target}: {err.strerror}") from None


def _check_target(source: Path, target: Path, wanted: Options) -> None:
    as_file = _is_file(target, wanted)
    if as_file and target.is_dir():
        raise UsageError(f"{target}: is a folder; give the file another name")
    if is_free(target) or not target.exists():
        return
    if not wanted.overwrite:
        raise UsageError(f"{target}: exists; give another name or --overwrite")
    theirs, ours = source.resolve(), target.resolve()
    if theirs.is_relative_to(ours) or ours.is_relative_to(theirs):
        raise UsageError(f"{target}: holds the source or is a part of it; give another name")
    if not (target.is_file() if as_file else _is_checkpoint(target)):
        raise UsageError(
            f"{target}: not a checkpoint, --overwrite would delete it; remove it first"
        )
    if not as_file:
        check_aside(target)


def _is_file(target: Path, wanted: Options) -> bool:
    """Whether only the GGUF file takes the target's name."""
    return wanted.to == "gguf" and target.suffix == ".gguf"


def _is_checkpoint(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).exists() for name in _OURS)


def check_space(target: Path, needed: int) -> None:
    """`RunError` when the disk of `target` has not that many bytes left."""
    place = target.absolute() if target.is_dir() else target.absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RunError(f"{target}: needs {size(needed)}, {size(free)} are free")


@contextlib.contextmanager
def target_folder(target: Path, wanted: Options) -> Iterator[Path]:
    """`<target>.tmp`, which becomes the target; of a `.gguf` target only the file in it does."""
    if not _is_file(target, wanted):
        with atomic_folder(target, replace=wanted.overwrite) as tmp:
            yield tmp
        return
    with scratch_folder(target) as tmp:
        yield tmp
        os.replace(tmp / GGUF_FILE, target)
