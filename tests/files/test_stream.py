"""Files that are written past the cache, and through it where that is not possible."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from ling.files import stream
from ling.files.stream import Stream

SIZES = (0, 1, 4096, stream._BUFFER_BYTES, 3 * stream._BUFFER_BYTES + 77)


def written(path, data, step):
    with contextlib.closing(Stream(path)) as file:
        for at in range(0, len(data), step):
            file.write(memoryview(data)[at : at + step])
        file.finish()
    return path.read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_all_bytes_arrive_in_order(tmp_path, size):
    data = os.urandom(size)
    assert written(tmp_path / "a", data, 1_000_003) == data


@pytest.mark.parametrize("refuses", ["open", "write", "part"])
def test_a_file_system_that_does_not_know_how(tmp_path, monkeypatch, refuses):
    data = os.urandom(SIZES[-1])
    opened, write = os.open, os.write

    def open_plain(path, flags, *mode):
        if flags & os.O_DIRECT and refuses == "open":
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *mode)

    def write_plain(fd, part):
        import fcntl

        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            if refuses == "write":
                raise OSError(errno.EINVAL, "Invalid argument")
            part = part[:4096]
        return write(fd, part)

    monkeypatch.setattr(os, "open", open_plain)
    monkeypatch.setattr(os, "write", write_plain)
    assert written(tmp_path / "a", data, 1 << 16) == data


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def full(fd, part):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "a", b"x" * 10, 10)
