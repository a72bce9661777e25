"""The files below a folder, and what of it is not read and why."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .tally import Tally, file_label

SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
PREPARED = "prepared.json"
# Where an unfinished preparation keeps its work.
PARTS = ".parts"


class Found(NamedTuple):
    """A regular file, by its path relative to the folder."""

    name: str
    path: Path
    size: int
    inode: tuple[int, int]
    is_link: bool


def walk(root: Path, left_out: Tally, skipped: frozenset[str] = SKIPPED_FOLDERS) -> list[Found]:
    """Regular files below `root`, sorted by name, links to such files among them.

    Nothing is opened, so pipes and devices cannot stall it, and no link to a folder is followed, so
    that it ends. What is passed over is counted in `left_out`.
    """
    found = []

    def unreadable(err: OSError) -> None:
        if Path(err.filename) == root:
            raise DataError((err.strerror or str(err)).lower(), path=root)
        left_out.add("folder that cannot be read", _relative(Path(err.filename), root))

    for folder, inner, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        if here != root and (PREPARED in names or PARTS in inner):
            left_out.add("folder that `data prepare` wrote", _relative(here, root))
            inner.clear()
            continue
        for name in inner:
            if reason := _folder_reason(here / name, skipped):
                left_out.add(reason, _relative(here / name, root) + "/")
        inner[:] = sorted(f for f in inner if not _folder_reason(here / f, skipped))
        for path in (here / name for name in sorted(names)):
            reason, info = _file_reason(path)
            if info is None:
                left_out.add(reason, _relative(path, root))
            else:
                inode, name = (info.st_dev, info.st_ino), _relative(path, root)
                found.append(Found(name, path, info.st_size, inode, path.is_symlink()))
    return sorted(_once(found, left_out), key=lambda f: f.name)


def _folder_reason(path: Path, skipped: frozenset[str]) -> str:
    """Why a folder is not entered, if so."""
    if path.name.startswith("."):
        return "hidden"
    if path.name in skipped:
        return "folder of caches, tests or installed packages"
    return "link to a folder (give that folder itself)" if path.is_symlink() else ""


def _file_reason(path: Path) -> tuple[str, os.stat_result | None]:
    """Why a file is not read, or what it is like."""
    if path.name.startswith("."):
        return "hidden", None
    try:
        info = path.stat()
    except OSError:
        return "broken link" if path.is_symlink() else "file that cannot be read", None
    if not stat.S_ISREG(info.st_mode):
        return "pipe, socket or device", None
    if info.st_size == 0:
        return "empty file", None
    if not os.access(path, os.R_OK):
        return "permission denied", None
    return "", info


def _once(found: list[Found], left_out: Tally) -> list[Found]:
    """Each file under one name: its own rather than that of a link."""
    known, kept = set(), []
    for file in sorted(found, key=lambda f: (f.is_link, f.name)):
        if file.is_link and file.inode in known:
            left_out.add("link to a file that is read anyway", file.name)
        else:
            known.add(file.inode)
            kept.append(file)
    return kept


def _relative(path: Path, root: Path) -> str:
    return file_label(path.relative_to(root).as_posix())
