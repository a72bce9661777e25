"""What a run folder remembers: who writes in it, its recipe, and the data it was trained on."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..config import PretrainConfig
from ..errors import UsageError
from ..files import make_folder, write_atomic

_EDGE_BYTES = 1 << 20


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Create and hold the run folder: a second run into it is refused, a dead run leaves no trace.

    A folder that is still empty at the end, because the recipe was unusable, is removed.
    """
    new = not out.exists()
    lock = make_folder(out) / ".lock"
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


def check_recipe(recipe: PretrainConfig, out: Path) -> None:
    """Refuse a recipe that differs from the one the run was started with, naming the key."""
    path = out / "config.yaml"
    if not path.exists():
        return
    try:
        before = _flat(yaml.safe_load(path.read_text("utf-8")))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        raise UsageError(f"{path}: unreadable; use another --out") from None
    now = _flat(dataclasses.asdict(recipe))
    for key in sorted(set(before) | set(now)):
        if before.get(key) != now.get(key):
            raise UsageError(
                f"{out}: `{key}` was {before.get(key)} in this run and is now {now.get(key)}; "
                "use another --out or the old value"
            )


def save_recipe(recipe: PretrainConfig, out: Path) -> None:
    """Keep the resolved recipe; called once everything it names has been opened."""
    path = out / "config.yaml"
    if not path.exists():
        write_atomic(path, yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False))


def fingerprints(prefixes: Sequence[str]) -> list[str]:
    """A short hash of each prefix's files: their sizes, and the first and last MiB of both."""
    return [_edges([Path(f"{prefix}.{end}") for end in ("idx", "bin")]) for prefix in prefixes]


def check_data(prefixes: Sequence[str], before: Sequence[str], now: Sequence[str]) -> None:
    """Refuse data files that changed since the checkpoint: the run would mix two data sets."""
    for prefix, old, new in zip(prefixes, before, now, strict=False):
        if old != new:
            raise UsageError(
                f"{prefix}: its files changed since this run read them; "
                "restore them or use another --out"
            )


def _edges(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(b"%d:" % size + file.read(_EDGE_BYTES))
            file.seek(max(size - _EDGE_BYTES, 0))
            digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()[:16]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
