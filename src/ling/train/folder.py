"""What a run folder remembers: who writes in it, its recipe, and the data it was trained on."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml

from ..config import PretrainConfig, recipe_yaml
from ..errors import UsageError
from ..files import make_folder, write_atomic

# Of larger files than all blocks together, that many blocks are hashed, evenly spaced.
_BLOCK_BYTES, _MAX_BLOCKS = 1 << 20, 256
_BATCH_KEYS = ("train.seed", "train.global_batch_size", "train.micro_batch_size")


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
    """Refuse a recipe that differs from the one the run was started with, naming the key.

    Keys that decide the order of the rows are left to `data_change`: the checkpoint knows better.
    """
    path = out / "config.yaml"
    if not path.exists():
        return
    try:
        before = _flat(yaml.safe_load(path.read_text("utf-8")))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        raise UsageError(f"{path}: unreadable; use another --out") from None
    now = _flat(dataclasses.asdict(recipe))
    for key in sorted(set(before) | set(now)):
        if not _orders_rows(key) and before.get(key) != now.get(key):
            raise UsageError(
                f"{out}: `{key}` was {before.get(key)} in this run and is now {now.get(key)}; "
                "use another --out or the old value"
            )


def save_recipe(recipe: PretrainConfig, out: Path) -> None:
    """Keep the resolved recipe; called once everything it names has been opened and compared."""
    write_atomic(out / "config.yaml", recipe_yaml(recipe))


def data_state(recipe: PretrainConfig, prefixes: Sequence[str]) -> dict[str, Any]:
    """What decides which row comes when, by name; each checkpoint keeps it beside its position."""
    keys = {k: v for k, v in _flat(dataclasses.asdict(recipe)).items() if _orders_rows(k)}
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    return {**keys, "world size": ranks, "files": [_fingerprint(p) for p in prefixes]}


def data_change(before: dict[str, Any], now: dict[str, Any], prefixes: Sequence[str]) -> str | None:
    """The first difference of two `data_state`s in words; None: the position still counts."""
    for key in now:
        if key != "files" and before.get(key) != now[key]:
            return f"`{key}` was {before.get(key)} in this run and is now {now[key]}"
    for prefix, old, new in zip(prefixes, before["files"], now["files"], strict=True):
        if old != new:
            return f"the files of {prefix} changed since this run read them"
    return None


def _orders_rows(key: str) -> bool:
    return key.startswith("data.") or key in _BATCH_KEYS


def _fingerprint(prefix: str) -> str:
    """A short hash of sizes and contents; evenly spaced parts stand for very large files."""
    digest = hashlib.sha256()
    for path in (Path(f"{prefix}.idx"), Path(f"{prefix}.bin")):
        size = path.stat().st_size
        digest.update(b"%d:" % size)
        blocks = min(-(-size // _BLOCK_BYTES), _MAX_BLOCKS)
        with path.open("rb") as file:
            for i in range(blocks):
                file.seek(i * max(size - _BLOCK_BYTES, 0) // max(blocks - 1, 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
