"""What a run remembers: its recipe, the order of its data, model, optimizer and RNG."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from ..checkpoint.dcp.folder import read_tensors
from ..checkpoint.dcp.writer import write_tensors
from ..checkpoint.run_folder import write_manifest
from ..config.recipe import PretrainConfig, recipe_yaml
from ..errors import UsageError
from ..files.atomic import atomic_folder, read_json, write_atomic
from ..model.ling import Ling


def state_tensors(model: Ling, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Model state under `model.`, optimizer moments under `optimizer.<moment>.`, the RNG state."""
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        moments = optimizer.state[p]
        if not moments:  # before the first step
            moments.update(
                step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)
            )
        for key in ("step", "exp_avg", "exp_avg_sq"):
            state[f"optimizer.{key}.{name}"] = moments[key]
    state["rng"] = torch.get_rng_state()
    return state


def save(
    folder: Path, model: Ling, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write `folder` so that it appears complete or not at all."""
    with atomic_folder(folder) as tmp:
        write_tensors(tmp, state_tensors(model, optimizer))
        (tmp / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
        (tmp / "state.json").write_text(json.dumps(progress) + "\n")
        write_manifest(tmp)


def load(folder: Path, model: Ling, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore model, optimizer and RNG in place; returns the saved progress."""
    state = state_tensors(model, optimizer)
    read_tensors(folder, state)
    torch.set_rng_state(state["rng"])
    return read_json(folder / "state.json")


# Of larger files than all blocks together, that many blocks are hashed, evenly spaced.
_BLOCK_BYTES, _MAX_BLOCKS = 1 << 20, 256


_BATCH_KEYS = ("train.seed", "train.global_batch_size", "train.micro_batch_size")


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
