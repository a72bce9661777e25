"""Members of downloaded archives, read as data: nothing is unpacked to the disk, nothing is run.

A wheel is a zip file, an npm package a tar file, a Debian package an `ar` file with a tar file.
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ...errors import DataError

# Of the packages in the catalogue the largest member has 40 MB, the largest archive 400 MB.
MAX_MEMBERS = 50_000
MAX_MEMBER_BYTES = 128 << 20
MAX_TOTAL_BYTES = 1 << 30

_AR_MAGIC, _AR_HEADER_BYTES = b"!<arch>\n", 60
_BROKEN = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError)
_BROKEN_FORMAT = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error)


class Member(NamedTuple):
    """A regular file of an archive."""

    name: str
    data: bytes

    @property
    def text(self) -> str:
        """Its text, with line ends as Unix has them; bytes that are no UTF-8 are replaced."""
        return self.data.decode("utf-8", "replace").replace("\r\n", "\n")


class Archive:
    """A downloaded archive, with limits on how much is read of it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def members(self, pattern: str) -> Iterator[Member]:
        """The regular files whose whole name matches `pattern`, in the archive's order.

        Names are without a leading `./`. Raises `DataError` where the archive is damaged or beyond
        a limit.
        """
        matches = re.compile(pattern).fullmatch
        read = _zip_members if self._path.suffix == ".whl" else _tar_members
        try:
            with self._path.open("rb") as file:
                for name, size, data in _limited(read(file)):
                    if matches(name):
                        yield Member(name, _all(data, size))
        except (*_BROKEN, *_BROKEN_FORMAT) as err:
            if isinstance(err, DataError):
                raise
            raise DataError(f"damaged archive ({err})", path=self._path) from None


_Opened = tuple[str, int, IO[bytes]]


def _limited(members: Iterator[_Opened]) -> Iterator[_Opened]:
    """The same members, as long as sizes and their number stay within the limits."""
    total = 0
    for count, member in enumerate(members, 1):
        total += member[1]
        if count > MAX_MEMBERS or member[1] > MAX_MEMBER_BYTES or total > MAX_TOTAL_BYTES:
            raise ValueError(f"{member[0][:80]!r} is beyond the limits on members and sizes")
        yield member


def _all(data: IO[bytes], size: int) -> bytes:
    """What a member has, which must be as much as the archive says."""
    found = data.read(size)
    if len(found) != size:
        raise ValueError(f"a member does not have the {size} bytes that are stated")
    return found


def _zip_members(file: IO[bytes]) -> Iterator[_Opened]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as data:
                    yield info.filename, info.file_size, data


def _tar_members(file: IO[bytes]) -> Iterator[_Opened]:
    if file.read(len(_AR_MAGIC)) == _AR_MAGIC:
        file = _data_of_deb(file)
    else:
        file.seek(0)
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        for info in archive:
            if info.isreg() and (data := archive.extractfile(info)) is not None:
                yield info.name.removeprefix("./"), info.size, data


def _data_of_deb(file: IO[bytes]) -> IO[bytes]:
    """The packed tar file with the data of a Debian package; `file` is behind the magic bytes."""
    while len(header := file.read(_AR_HEADER_BYTES)) == _AR_HEADER_BYTES:
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        if not 0 <= size <= MAX_TOTAL_BYTES:
            raise ValueError(f"{name!r} is beyond the limits on members and sizes")
        if name.startswith("data.tar"):
            return io.BytesIO(_all(file, size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("no Debian package: it has no data.tar")
