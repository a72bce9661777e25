"""The files of a model on a hub: which are needed, whether a copy is complete and unchanged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ..errors import RunError

# Never code and never pickles. Only files at the top: the names are untrusted, this keeps them
# inside the target folder.
_NEEDED = re.compile(
    r"[\w-][\w.-]*\.(safetensors|json|jinja)|merges\.txt|tokenizer\.model", re.ASCII
)
_CHUNK_BYTES = 8 << 20
_SHA256, _GIT = re.compile(r"[0-9a-fA-F]{64}"), re.compile(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")
# The largest releases have a few hundred shards.
MAX_FILES = 10_000


@dataclass(frozen=True)
class RemoteFile:
    """One file as the hub lists it. A hub gives `sha256` for large files, else maybe `git_sha1`.

    Raises `RunError` for what no hub lists: hashes become names of files.
    """

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def __post_init__(self) -> None:
        sized = type(self.size) is int and 0 <= self.size < 1 << 63
        if not isinstance(self.name, str) or not sized:
            raise RunError(f"the hub lists {self.name!r:.80} of size {self.size!r:.40}")
        for kind, digest in ((_SHA256, self.sha256), (_GIT, self.git_sha1)):
            if digest is not None and not (isinstance(digest, str) and kind.fullmatch(digest)):
                raise RunError(f"the hub lists {self.name!r:.80} with the hash {digest!r:.80}")

    def is_whole(self, folder: Path) -> bool:
        """Whether a file of this name and size is in the folder."""
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.size

    def check_hash(self, path: Path) -> None:
        """Raise `RunError` unless the bytes at `path` are those that the hub lists."""
        expected = self.sha256 or self.git_sha1
        if expected is None:
            return
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.size)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != expected.lower():
            raise RunError(
                f"{path}: its hash is {digest.hexdigest()[:16]}..., the hub lists "
                f"{expected[:16]}...; delete it and download again"
            )


def needed(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The weights, configuration and tokenizer files among `files`, by name.

    Raises `RunError` when there are more than any model has, or two of one name.
    """
    found = sorted((f for f in files if _NEEDED.fullmatch(f.name)), key=lambda f: f.name)
    if len(found) > MAX_FILES:
        raise RunError(f"the hub lists {len(found)} files of a model, the limit is {MAX_FILES}")
    for one, other in pairwise(found):
        if one.name == other.name:
            raise RunError(f"the hub lists {one.name} twice")
    return found
