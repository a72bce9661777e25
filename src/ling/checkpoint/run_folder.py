"""A run folder: who writes in it, its checkpoints `step-N`, which of them are whole.

A checkpoint holds `.metadata` and `*.distcp` (model, optimizer moments, RNG state), `config.json`
of the model, `state.json` (step and data position) and `manifest.json` (SHA-256 of each file).
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError, UsageError
from ..files.atomic import hash_tree, make_folder, read_json

_STEP = re.compile(r"step-([0-9]{1,18})")


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint that `path` is, or the newest finished one of the run that it is."""
    if (path / ".metadata").is_file():
        return path
    return next(reversed(checkpoints(path)), None)


MANIFEST = "manifest.json"


def of_rank(name: str, rank: int) -> str:
    """`name` of the file that each rank of a run has of its own; rank 0's is `name` itself."""
    path = Path(name)
    return f"{path.stem}-{rank}{path.suffix}" if rank else name


def checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [
        (int(m[1]), p)
        for p in (run / "checkpoints").glob("step-*")
        if (m := _STEP.fullmatch(p.name))
    ]
    return [p for _, p in sorted(found) if (p / MANIFEST).is_file()]


def intact(folder: Path) -> bool:
    """Whether every file has the hash that was recorded when it was written."""
    try:
        recorded = read_json(folder / MANIFEST)
    except InputError:
        return False
    now = hash_tree(folder)
    now.pop(MANIFEST, None)
    return recorded == now


def newest(run: Path, log: Any) -> Path | None:
    """The newest intact checkpoint; a damaged newer one is named and passed over.

    Raises `CheckpointError` when there are checkpoints but none is intact.
    """
    found = checkpoints(run)
    for folder in reversed(found):
        if intact(folder):
            return folder
        log(f"warning: checkpoint {folder.name} is damaged, looking for an older one")
    if found:
        raise CheckpointError(f"{run}: no checkpoint is intact; remove them to start anew")
    return None


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` checkpoints (0 keeps all) and unfinished ones."""
    folder = run / "checkpoints"
    for tmp in folder.glob("step-*.tmp"):
        shutil.rmtree(tmp, ignore_errors=True)
    if keep_last:
        for old in checkpoints(run)[:-keep_last]:
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(out: Path, rank: int = 0) -> Iterator[None]:
    """Create and hold the run folder: a second run into it is refused, a dead run leaves no trace.

    A folder that is still empty at the end, because the recipe was unusable, is removed.
    """
    new = not out.exists()
    lock = make_folder(out) / of_rank(".lock", rank)
    try:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                yield
            finally:
                if new and [p.name for p in out.iterdir()] == [lock.name]:
                    lock.unlink()
                    out.rmdir()
    except BlockingIOError:
        raise UsageError(f"{out}: another run is writing here") from None
