"""Which weights a checkpoint has, without reading all of them: what was computed with them may be
kept, and must not be taken for that of others.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from ..files.guarded import open_regular, pread

# What is never weights; the configuration is compared on its own, as the reader understands it.
NOT_WEIGHTS = (".json", ".jsonl", ".jinja", ".md", ".txt", ".py", ".log", ".png", ".lock", ".tmp")
EDGE = 1 << 16
BLOCKS, BLOCK = 64, 1 << 12


def weights_id(path: str | Path) -> str:
    """A hash that differs between checkpoints with different weights.

    It covers of every file that may have weights: its name below `path`, its size, the time it was
    last written (in nanoseconds), its first and last 64 KiB (headers, so names, shapes and
    positions of tensors) and 64 blocks of 4 KiB at equal distances; and `checksums.json`. So it
    misses only a change that keeps name, size and time and avoids all blocks, which no writer of
    checkpoints makes. A copy with another time counts as other weights.
    Raises `OSError` for what cannot be read.
    """
    whole, root = hashlib.sha256(), Path(path)
    for file in _files(root):
        name = os.fsencode(os.path.relpath(file, root))
        whole.update(len(name).to_bytes(4, "little") + name + _file_digest(file))
    return whole.hexdigest()


def _files(root: Path) -> list[Path]:
    """Files that may have weights, in one order."""
    if not root.is_dir():
        return [root]
    found = (Path(folder) / name for folder, _, names in os.walk(root) for name in names)
    return sorted(f for f in found if _may_have_weights(f) and stat.S_ISREG(os.stat(f).st_mode))


def _may_have_weights(file: Path) -> bool:
    return file.name == "checksums.json" or not file.name.endswith(NOT_WEIGHTS)


def _file_digest(file: Path) -> bytes:
    with open_regular(file) as fd:
        known = os.fstat(fd)
        size = known.st_size
        digest = hashlib.sha256(f"{size} {known.st_mtime_ns} ".encode())
        digest.update(pread(fd, EDGE, 0))
        digest.update(pread(fd, EDGE, max(size - EDGE, 0)))
        for i in range(BLOCKS if size > 2 * EDGE else 0):
            digest.update(pread(fd, BLOCK, size * i // BLOCKS))
    return digest.digest()
