"""Writing files and folders so that a half-written one never has its final name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import RunError, UsageError
from .inplace import MARK as _MARK
from .inplace import NEW, OLD, discard, is_free, move_inside, stays, undo

# Not the input's fault: a full disk, a quota, a limit on file sizes.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield `scratch_path(final)`; rename it to `final` when the block ends well, else remove it.

    A `final` that is free is filled. With `replace` an existing `final` is removed once the new one
    is complete. Raises `UsageError` if the place is not writable, `RunError` if writing fails (full
    disk).
    """
    with scratch_folder(final) as tmp:
        yield tmp
        put_in_place(tmp, final, replace=replace)


def put_in_place(folder: Path, final: Path, *, replace: bool = False) -> None:
    """Rename a complete folder to `final` once all of it is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            _fsync(path)
    if stays(final):
        _move_inside(folder, final, replace)
        return
    _move_into_place(folder, final, replace)
    (final / _MARK).unlink(missing_ok=True)
    _fsync(final.parent)


def _move_inside(folder: Path, final: Path, replace: bool) -> None:
    if not (replace or is_free(final)):
        raise FileExistsError(errno.EEXIST, f"{final.name} is no longer empty")
    check_aside(final)
    move_inside(folder, final)
    _fsync(final)


def check_free(final: Path) -> None:
    """`UsageError` when a new folder may not be written there: something of a user's is there."""
    put_back(final)
    if os.path.lexists(final) and not is_free(final):
        raise UsageError(f"{final}: exists; give another name")


def set_aside(final: Path) -> Path | None:
    """Where the folder is that a process was about to replace when it was killed: `final` itself is
    missing then, and `put_back` returns it.
    """
    held = _aside(final) / final.name
    return held if not os.path.lexists(final) and held.is_dir() and _is_ours(held.parent) else None


def stopped(final: Path) -> str:
    """For a message that `final` is missing: where it is, if that is known."""
    held = set_aside(final)
    return "" if held is None else f"; a stopped conversion left it in {held}, move it back"


def put_back(final: Path) -> bool:
    """Undo half a replacement, unless its process still is at it; whether there was one."""
    if stays(final):
        return not _is_locked(final / NEW) and undo(final, final / NEW)
    held = set_aside(final)
    if held is None or _is_locked(scratch_path(final)):
        return False
    os.rename(held, final)
    discard(held.parent)
    return True


def check_aside(final: Path) -> None:
    """`UsageError` when the place where a replaced `final` lies for a moment is someone else's."""
    aside = _aside(final)
    if os.path.lexists(aside) and not _is_ours(aside):
        raise UsageError(
            f"{aside}: in the way of replacing {final.name}, and not ours to remove; rename it"
        )


def _empty(folder: Path) -> None:
    """Remove all but the mark."""
    for path in list(folder.iterdir()):
        if path.name != _MARK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_locked(folder: Path) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(fd)
    finally:
        os.close(fd)


def scratch_path(final: Path) -> Path:
    """Where the folder `final` is written: beside it, or in it where it cannot be renamed."""
    return final / NEW if stays(final) else final.with_name(final.name + ".tmp")


def final_name(scratch: Path) -> str:
    """The name that a `scratch_path` will have."""
    return scratch.parent.name if scratch.name == NEW else scratch.name.removesuffix(".tmp")


def _aside(final: Path) -> Path:
    return final / OLD if stays(final) else final.with_name(final.name + ".old")


def _is_ours(folder: Path) -> bool:
    """Whether a folder has our mark, or is empty."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return (folder / _MARK).is_file() or not any(folder.iterdir())


@contextlib.contextmanager
def scratch_folder(final: Path) -> Iterator[Path]:
    """Yield a new folder `scratch_path(final)`, removed when the block ends.

    Errors as `atomic_folder`.

    What a stopped process left there is removed; a process that still writes there is not
    disturbed, and a folder of that name that is not ours stays as it is (`UsageError`).
    """
    tmp = scratch_path(final)
    try:
        lock = _claim(tmp)
    except OSError as err:
        raise UsageError(f"{final}: cannot write here: {err.strerror}") from None
    try:
        yield tmp
    except OSError as err:
        raise RunError(f"could not save {final}: {err.strerror or err}") from None
    finally:
        if _is_at(lock, tmp):
            with contextlib.suppress(OSError):
                discard(tmp)
        os.close(lock)


def _claim(folder: Path) -> int:
    """Make an empty folder and lock it; the lock ends with the descriptor or its process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not _lock(lock) or not _is_at(lock, folder):
        os.close(lock)
        raise UsageError(f"{folder}: another process is writing there")
    if not _is_ours(folder):
        os.close(lock)
        raise UsageError(f"{folder}: in the way, and not ours to remove; rename it")
    (folder / _MARK).touch()
    _empty(folder)
    return lock


def _lock(fd: int) -> bool:
    """Lock a descriptor unless another process has; network file systems may know no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        return not isinstance(err, BlockingIOError)
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether the path still is what the descriptor was opened on."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def _move_into_place(new: Path, final: Path, replace: bool) -> None:
    if not (replace and final.exists()):
        os.rename(new, final)  # an empty folder there does not hinder
        return
    check_aside(final)
    aside = _aside(final)
    if aside.exists():
        discard(aside)
    aside.mkdir()
    (aside / _MARK).touch()
    try:
        # A process that is killed between the two renames leaves no `final`: `put_back`.
        os.rename(final, aside / final.name)
        os.rename(new, final)
    except BaseException:  # an interruption, too, leaves the target as it was
        if not final.exists():
            os.rename(aside / final.name, final)
        discard(aside)
        raise
    discard(aside)


def write_atomic(path: Path, text: str | Iterable[str]) -> None:
    """Replace `path` in one step; pieces of text may come from `path` itself."""
    tmp = path.with_name(path.name + ".tmp")
    try:
        with tmp.open("w", encoding="utf-8") as file:
            file.writelines([text] if isinstance(text, str) else text)
        _fsync(tmp)
        os.replace(tmp, path)
    except OSError as err:
        if err.errno in _NO_SPACE:
            tmp.unlink(missing_ok=True)
            raise RunError(f"could not save {path}: {err.strerror}") from None
        raise UsageError(f"{path}: cannot write here: {err.strerror}") from None


def make_folder(path: Path) -> Path:
    """Create an output folder; `UsageError` when it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UsageError(f"{path}: cannot write here: {err.strerror}") from None
    if not os.access(path, os.W_OK):
        raise UsageError(f"{path}: cannot write here: permission denied")
    return path


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below `folder`, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _MARK)
    return {str(p.relative_to(folder)): p for p in files}


def hash_tree(folder: Path, *, skip: Container[str] = ()) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by relative path; without those to `skip`."""
    return {n: hash_file(path) for n, path in files_below(folder).items() if n not in skip}


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(file.read()).hexdigest()


def read_json(path: Path) -> Any:
    """Parse a JSON file that ling wrote; `UsageError` when it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise UsageError(f"{path}: unreadable ({err})") from None


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
