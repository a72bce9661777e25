"""KV pages as files: one a page, named by a keyed hash of all that decides its content.

A file has the tokens of its page, so that reading one is a comparison of tokens as in memory, and a
checksum. It appears complete under its name or not at all, and equal names have equal contents: any
number of processes may share a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import re
import stat
import struct
import tempfile
import time
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..files.guarded import open_regular
from ..text import size
from .page_folder import open_folder, open_part
from .pages import PAGE

log = logging.getLogger("ling")

MAGIC = b"LINGKV1\0"
HASH = 20
# magic, identity of the model, name of the page before it, salt, its tokens, bytes of the page
HEADER = struct.Struct(f"<8s{HASH}s{HASH}s{HASH}s{4 * PAGE}sQ")
CHECKSUM = 32
PART_NAME, PAGE_NAME = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{40}\.kv")
STALE_S = 3600.0


class PageKey(NamedTuple):
    """What a page is: the name of the page before it, a hash of the salt, and its 64 tokens."""

    parent: bytes
    salt: bytes
    tokens: bytes


ROOT = bytes(HASH)


@dataclass
class _Found:
    """A page file of any model in the folder."""

    path: str
    mtime: float
    nbytes: int


class PageFiles:
    """The files of one model's pages, `page_bytes` each, in a folder of at most `max_bytes`.

    `identity` is a hash of what, beside the tokens, decides the bytes of a page. Raises `OSError`
    for a folder that is not to be used.
    """

    def __init__(self, folder: Path, identity: bytes, page_bytes: int, max_bytes: int) -> None:
        self.folder, self.identity, self.page_bytes = folder, identity, page_bytes
        self.max_bytes, self.file_bytes = max_bytes, HEADER.size + page_bytes + CHECKSUM
        self._key = open_folder(folder)
        self._part = folder / identity.hex()
        others = any(PART_NAME.fullmatch(name) for name in os.listdir(folder))
        if others and not self._part.exists():
            log.warning(
                "%s: its KV pages are of another model, format or version: not used", folder
            )
        open_part(self._part)
        self._total: int | None = None
        self._said: set[str] = set()

    @property
    def most_pages(self) -> int:
        """Pages that may stay together; the rest of the room is for those about to be replaced."""
        return self.max_bytes * 9 // 10 // self.file_bytes

    def salt(self, text: str) -> bytes:
        """A salt as files have it: only who has the folder's key can try texts."""
        return self._hash(b"salt", text.encode("utf-8", "surrogatepass"))

    def name(self, key: PageKey) -> bytes:
        """The name of a page, which the pages behind it have as their parent."""
        return self._hash(b"page", b"".join((self.identity, *key)))

    def _hash(self, what: bytes, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=HASH, key=self._key, person=what).digest()

    def has(self, name: bytes) -> bool:
        """Whether there is a page of that name, as far as its size tells; `read` checks it all."""
        try:
            known = os.lstat(self._path(name))
        except OSError:
            return False
        return stat.S_ISREG(known.st_mode) and known.st_size == self.file_bytes

    def touch(self, name: bytes, seconds: float) -> None:
        """Set when a page was last of use."""
        with contextlib.suppress(OSError):
            os.utime(self._path(name), (seconds, seconds), follow_symlinks=False)

    def _path(self, name: bytes) -> Path:
        return self._part / f"{name.hex()}.kv"

    # ---- reading -------------------------------------------------------------------------------

    def read(self, key: PageKey, name: bytes) -> bytearray | None:
        """The bytes of a page; None where there is none. What is no sound page is removed."""
        path = self._path(name)
        try:
            return self._checked(path, key)
        except FileNotFoundError:
            return None
        except OSError as err:
            self._say("damaged", "%s: %s: computed again", path, err.strerror or err)
        except ValueError as err:
            self._say("damaged", "%s: %s: computed again", path, err)
        _remove(path)
        return None

    def _checked(self, path: Path, key: PageKey) -> bytearray:
        if path.is_symlink():
            raise ValueError("a symbolic link in place of a KV page")
        header, data = bytearray(HEADER.size), bytearray(self.page_bytes)
        checksum = bytearray(CHECKSUM)
        with open_regular(path) as fd:
            if os.fstat(fd).st_size != self.file_bytes:
                raise ValueError("a KV page of another size")
            # One call reads 2 GiB at most; no page is near that.
            if os.preadv(fd, [header, data, checksum], 0) != self.file_bytes:
                raise ValueError("a KV page that was cut short")
        if bytes(header) != self._header(key):
            raise ValueError("a KV page of other tokens, or of another model")
        if not hmac.compare_digest(self._checksum(header, data), checksum):
            raise ValueError("a KV page whose checksum is wrong")
        return data

    def _header(self, key: PageKey) -> bytes:
        return HEADER.pack(MAGIC, self.identity, *key, self.page_bytes)

    def _checksum(self, header: bytes | bytearray, data: memoryview | bytearray) -> bytes:
        made = hmac.new(self._key, header, "sha256")
        made.update(data)
        return made.digest()

    # ---- writing -------------------------------------------------------------------------------

    def write(
        self, key: PageKey, name: bytes, data: memoryview, seconds: float, keep: Collection[bytes]
    ) -> bool:
        """Write a page that was last of use at `seconds`; False where no page can be written.

        The files that were of no use for longest make room, without those in `keep`.
        """
        try:
            self._make_room(keep)
            self._put(self._path(name), self._header(key), data)
        except IsADirectoryError:  # with files of somebody in it; the other pages can be written
            self._say("blocked", "%s: a folder in place of a KV page", self._path(name))
        except OSError as err:
            self._say("full", "%s: KV pages cannot be saved: %s", self.folder, err.strerror or err)
            return False
        self.touch(name, seconds)
        return True

    def _put(self, path: Path, header: bytes, data: memoryview) -> None:
        fd, temporary = tempfile.mkstemp(dir=self._part, suffix=".tmp")
        try:
            # Nothing waits for the disk: what a power failure cuts short fails its checksum.
            with open(fd, "wb") as file:
                file.writelines((header, data, self._checksum(header, data)))
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _make_room(self, keep: Collection[bytes]) -> None:
        if self._total is None or self._total + self.file_bytes > self.max_bytes:
            self._total = self._evict({f"{name.hex()}.kv" for name in keep})
        self._total += self.file_bytes

    def recount(self) -> None:
        """Look at the folder again before the next write: other processes write there too."""
        self._total = None

    def _evict(self, keep: set[str]) -> int:
        """Remove the oldest files until one fits; returns the bytes of those that stay."""
        found = sorted(self._scan(), key=lambda f: f.mtime)
        total = sum(f.nbytes for f in found)
        room = self.max_bytes - self.max_bytes // 20 - self.file_bytes
        for file in found:
            if total <= room:
                break
            if os.path.basename(file.path) in keep:
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.path)
            total -= file.nbytes
        return total

    def _scan(self) -> list[_Found]:
        """Page files of all models; what stopped processes left half written is removed."""
        found = []
        for part in os.scandir(self.folder):
            if not PART_NAME.fullmatch(part.name) or not part.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(part):
                with contextlib.suppress(FileNotFoundError):  # another process was quicker
                    known = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):  # not one of its files
                        continue
                    if PAGE_NAME.fullmatch(entry.name):
                        found.append(_Found(entry.path, known.st_mtime, known.st_size))
                    elif entry.name.endswith(".tmp") and known.st_mtime < time.time() - STALE_S:
                        os.unlink(entry.path)
        return found

    def _say(self, what: str, line: str, *values: object) -> None:
        """A warning, once for each kind of trouble: a damaged folder has many such files."""
        log.log(logging.DEBUG if what in self._said else logging.WARNING, line, *values)
        self._said.add(what)

    def check_size(self) -> None:
        """Say so where not even one page fits."""
        if not self.most_pages:
            log.warning(
                "`cache_dir_size` is %s, and a KV page of this model takes %s: none is saved",
                size(self.max_bytes),
                size(self.file_bytes),
            )


def _remove(path: Path) -> None:
    """Remove what is in place of a page, where that loses nothing of somebody else."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def token_bytes(tokens: Sequence[int]) -> bytes:
    """The tokens of a page as files have them."""
    return array("i", tokens).tobytes()
