"""Reading what someone else wrote: no file can stall us, lead out of its folder or, as JSON,
exhaust memory.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..text import shown


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """A descriptor to read a regular file; anything else is an `OSError` that says so, at once.

    Opening a fifo would wait for a writer and opening a device may do anything, hence the look
    before; `O_NONBLOCK` and the look after cover a swap in between.
    """
    _check_regular(os.stat(path).st_mode)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(fd).st_mode)
        yield fd
    finally:
        os.close(fd)


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The whole of a regular file; `OSError` when it is none or larger than `max_bytes`."""
    with open_regular(path) as fd, open(fd, "rb", closefd=False) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes} bytes")
    return data


def pread_into(fd: int, target: memoryview, at: int) -> int:
    """Read from byte `at` until `target` is full: one call gives 2 GiB at most. Returns how many
    bytes were read, fewer only where the file ends.
    """
    done = 0
    while done < len(target):
        count = os.preadv(fd, [target[done:]], at + done)
        if not count:
            break
        done += count
    return done


def pread(fd: int, count: int, at: int) -> bytes:
    """`count` bytes from byte `at`, fewer only where the file ends."""
    data = bytearray(count)
    return bytes(memoryview(data)[: pread_into(fd, memoryview(data), at)])


def inside(folder: Path, name: str) -> Path:
    """The path of a model folder's file; `OSError` when it is a link that leads out of the folder.

    The one way out is the layout of the Hugging Face cache, whose snapshots are links into the
    `blobs` of the repository or of the whole cache. Loops and dangling links are errors too.
    """
    path = folder / name
    if not path.is_symlink():
        return path
    real, home = Path(os.path.realpath(path, strict=True)), Path(os.path.realpath(folder))
    roots = [home]
    if home.parent.name == "snapshots" and home.parents[1].name.startswith("models--"):
        roots += [home.parents[1] / "blobs", home.parents[2] / "blobs"]
    if not any(real.is_relative_to(root) for root in roots):
        raise OSError(errno.EINVAL, "a link that leads out of the folder; put the file itself here")
    return path


_LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--", b"<error>")
# What hubs answer in plain text in place of a file.
_ANSWERS = (
    b"entry not found",
    b"repository not found",
    b"invalid username or password",
    b"access to model",
    b"access denied",
)
HEAD_BYTES = 512


def impostor(head: bytes) -> str | None:
    """What the first bytes show a file to be when a download left something else in its place."""
    if head.startswith(_LFS):
        return "a Git LFS pointer in place of the file; run `git lfs pull`, or download it again"
    start = head[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_PAGES):
        return "a web page (HTML) in place of the file; download it again, logged in if need be"
    if start.startswith(_ANSWERS):
        said = shown(start.splitlines()[0].decode("utf-8", "replace"))
        return f"a hub's answer in place of the file ({said}); download it again"
    return None


def check_genuine(head: bytes) -> None:
    """`ValueError` for the first bytes of an `impostor`."""
    if (what := impostor(head)) is not None:
        raise ValueError(what)


# A safetensors header has an object and eight values for each tensor, a model index one value. The
# largest release has 130 000 tensors over all its files.
MAX_VALUES = 1 << 20


MAX_OBJECTS = 1 << 17


def loads(data: bytes | bytearray) -> Any:
    """The value of a JSON text. Raises `ValueError` with a short reason.

    Unlike `json.loads`, refuses a name that an object holds twice (readers differ on which value
    counts, so a checker and a loader could see different files) and more than `MAX_VALUES` values
    or `MAX_OBJECTS` objects (a few bytes of text each cost hundreds in memory).
    """
    objects = data.count(b"{")
    if objects > MAX_OBJECTS or data.count(b",") + data.count(b"[") + objects > MAX_VALUES:
        raise ValueError(f"more than {MAX_OBJECTS} objects or {MAX_VALUES} values")
    check_genuine(bytes(data[:HEAD_BYTES]))
    try:
        # Editors of Windows put a mark before the text.
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON: {err.msg} at byte {err.pos}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = Counter(name for name, _ in pairs)
        twice = next(name for name, count in names.items() if count > 1)
        raise ValueError(f"{shown(twice)} is there twice")
    return value
