"""Filling a folder that cannot be renamed: a mount point such as a docker volume, or one whose
parent may not be written to.

The new files are written into a hidden folder of it and moved up when they are complete, those by
which readers know a checkpoint last; until then a reader finds no checkpoint, never half of one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

MARK = ".written-by-ling"
"""Lies in the folders that are ours to remove, which a user's own of the same name is not."""

NEW, OLD, PARTS = ".ling-new", ".ling-old", ".ling-parts"
_OURS = (NEW, OLD, PARTS)
_ALL = ".ling-moved"
"""In `OLD` once everything old is there: what lies outside is new from then on."""
# By which a reader knows a checkpoint, in the order in which they appear.
_LAST = ("config.json", "model.gguf", ".metadata", "latest_checkpointed_iteration.txt")
_MOUNTS = Path("/proc/self/mountinfo")


def stays(final: Path) -> bool:
    """Whether a folder has to be filled where it is."""
    if not final.is_dir() or final.is_symlink():
        return False
    return _is_mount(final) or not os.access(final.resolve().parent, os.W_OK)


def _is_mount(folder: Path) -> bool:
    """`os.path.ismount` does not see a folder that is bound from the same file system."""
    if os.path.ismount(folder):
        return True
    try:
        text = _MOUNTS.read_bytes()
    except OSError:
        return False
    return os.fsencode(folder.resolve()) in {_unescaped(x.split()[4]) for x in text.splitlines()}


def _unescaped(path: bytes) -> bytes:
    """A path of mountinfo: spaces and the like are three octal digits there."""
    return re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), path)


def is_free(folder: Path) -> bool:
    """Whether an output may be written there: a folder with nothing of a user's in it."""
    return folder.is_dir() and not any(True for _ in _entries(folder))


def _entries(folder: Path) -> Iterator[Path]:
    """What is in a folder apart from our own hidden folders and what a new file system has."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith((*_OURS, _ALL)) and path.name not in (MARK, "lost+found"):
            yield path


def move_inside(new: Path, final: Path) -> None:
    """Replace what `final` holds by what `new`, a folder in it, holds; on failure it is put back.

    A process that is killed on the way leaves `OLD`: `undo`.
    """
    old = final / OLD
    old.mkdir()
    (old / MARK).touch()
    try:
        for path in sorted(_entries(final), key=_place, reverse=True):
            os.rename(path, old / path.name)
        (old / _ALL).touch()
        for path in sorted(_entries(new), key=_place):
            os.rename(path, final / path.name)
    except BaseException:  # an interruption, too
        undo(final, new)
        raise
    discard(old)


def _place(path: Path) -> int:
    return _LAST.index(path.name) if path.name in _LAST else -1


def undo(final: Path, new: Path) -> bool:
    """Take half a `move_inside` back, or clean up after a whole one; whether there was half a one.

    It was a whole one if nothing is left to move.
    """
    old = final / OLD
    if not (old / MARK).is_file():
        return False
    half = new.is_dir() and any(True for _ in _entries(new))
    if half:
        if (old / _ALL).exists():
            for path in [*_entries(final)]:
                _remove(path)
            (old / _ALL).unlink()  # should this be stopped too, what comes back is not removed
        for path in sorted(_entries(old), key=_place):
            os.rename(path, final / path.name)
    discard(old)
    return half


def discard(folder: Path) -> None:
    """Remove a folder that ling filled, its mark last: a process may be killed on the way."""
    for path in list(folder.iterdir()):
        if path.name != MARK:
            _remove(path)
    shutil.rmtree(folder)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
