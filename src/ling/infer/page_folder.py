"""The folder of KV pages that outlive the process: only its owner's, with a key of its own.

Its pages show what users wrote, so nobody else may read them, and what others could have written
is not used.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
import tempfile
from pathlib import Path

from ..files.guarded import read_regular

log = logging.getLogger("ling")

KEY_FILE = "key"
"""Random bytes that salts, names and checksums are hashed with; it also marks a folder as ours."""
KEY_BYTES = 32
OTHERS = 0o077


def open_folder(folder: Path) -> bytes:
    """The key of a folder, which is made where there is none.

    What others could have written (mode), and a damaged key, is ignored with one log line: a new
    key makes every page that is there another's. `OSError` for a folder that cannot be ours: a
    link, of another user, or with files that are not ours.
    """
    with contextlib.suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    _check_owned(folder)
    # Half a key is another process's that makes the same folder.
    names = [name for name in os.listdir(folder) if not name.endswith(".tmp")]
    if names and KEY_FILE not in names:
        raise OSError(errno.EPERM, "has files that are not ours; give a folder of its own")
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    os.chmod(folder, 0o700)
    if not names:
        return _new_key(folder, replace=False)
    if mode & OTHERS:
        log.warning("%s: mode %o let others in; its KV pages are not used", folder, mode)
        return _new_key(folder, replace=True)
    return _read_key(folder)


def open_part(folder: Path) -> None:
    """Make a folder inside; `OSError` when what is there is not ours."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _check_owned(folder)


def _check_owned(folder: Path) -> None:
    known = os.lstat(folder)
    if stat.S_ISLNK(known.st_mode):
        raise OSError(errno.ELOOP, "is a symbolic link; give the folder itself")
    if not stat.S_ISDIR(known.st_mode):
        raise OSError(errno.ENOTDIR, "is not a folder")
    if known.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "belongs to another user")


def _read_key(folder: Path) -> bytes:
    path = folder / KEY_FILE
    known = os.lstat(path)
    sound = stat.S_ISREG(known.st_mode) and known.st_uid == os.geteuid()
    if sound and known.st_size == KEY_BYTES and not known.st_mode & OTHERS:
        return read_regular(path, KEY_BYTES)
    log.warning("%s: damaged; the KV pages beside it are not used", path)
    return _new_key(folder, replace=True)


def _new_key(folder: Path, *, replace: bool) -> bytes:
    """Write a key; without `replace`, another process's that was quicker."""
    fd, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with open(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        if replace:
            os.replace(temporary, folder / KEY_FILE)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, folder / KEY_FILE)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return read_regular(folder / KEY_FILE, KEY_BYTES)
