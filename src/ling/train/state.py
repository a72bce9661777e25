"""What a run remembers: its recipe, the order of its data, model, optimizer and RNG."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from ..checkpoint.dcp.folder import read_tensors
from ..checkpoint.dcp.writer import write_tensors
from ..checkpoint.run_folder import write_manifest
from ..config.recipe import PretrainConfig, TrainConfig, recipe_yaml
from ..data.tokenizer import Tokenizer
from ..errors import UsageError
from ..files.atomic import atomic_folder, read_json, write_atomic
from ..model.ling import Ling
from .forward import LingForTraining


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one model together.

    `rank` names its lock and its manifest; of every `dp_size` micro-batches it reads number
    `dp_rank`.
    """

    rank: int = 0
    dp_rank: int = 0
    dp_size: int = 1


@dataclass
class TrainState:
    """What changes while a run trains, and what a checkpoint restores.

    `step`, `rows` and `tokens` are done; `rows` is the position in the data, which may start
    again from 0. `nonfinite` counts steps in a row without a finite loss or gradient. `data` is the
    `data_state` that `rows` refers to.
    """

    network: LingForTraining
    optimizer: torch.optim.Optimizer
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)
    tokenizer: Tokenizer | None = None
    data: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    rows: int = 0
    tokens: int = 0
    nonfinite: int = 0

    @property
    def model(self) -> Ling:
        """The model whose names checkpoints use."""
        return self.network.ling

    def progress(self) -> dict[str, Any]:
        """Counters of a checkpoint."""
        return {"step": self.step, "rows": self.rows, "tokens": self.tokens, "data": self.data}

    def first_rows(self, cfg: TrainConfig) -> list[int]:
        """First row of each micro-batch of the next step that this process reads.

        One process with `dp_size` times as many micro-batches reads the same micro-batches.
        """
        ranks = self.ranks
        count = cfg.global_batch_size // (cfg.micro_batch_size * ranks.dp_size)
        numbers = (micro * ranks.dp_size + ranks.dp_rank for micro in range(count))
        return [self.rows + number * cfg.micro_batch_size for number in numbers]


def state_tensors(state: TrainState) -> dict[str, Tensor]:
    """Model state under `model.`, optimizer moments under `optimizer.<moment>.`, the RNG state.

    A sharded parameter is in here as it is: DCP saves and reads shards.
    """
    tensors = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    for name, p in state.model.named_parameters():
        if not p.requires_grad:
            continue
        moments = state.optimizer.state[p]
        if not moments:  # before the first step
            moments.update(
                step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)
            )
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"optimizer.{key}.{name}"] = moments[key]
    tensors["rng"] = torch.get_rng_state()
    return tensors


def save(folder: Path, state: TrainState) -> None:
    """Write `folder` so that it appears complete or not at all."""
    with atomic_folder(folder) as tmp:
        write_tensors(tmp, state_tensors(state))
        (tmp / "config.json").write_text(json.dumps(state.model.config.to_dict(), indent=2) + "\n")
        (tmp / "state.json").write_text(json.dumps(state.progress()) + "\n")
        write_manifest(tmp, state.ranks.rank)


def load(folder: Path, state: TrainState) -> dict[str, Any]:
    """Restore model, optimizer, RNG and counters in place; returns the saved `data_state`."""
    tensors = state_tensors(state)
    read_tensors(folder, tensors)
    torch.set_rng_state(tensors["rng"])
    progress = read_json(folder / "state.json")
    state.step, state.rows, state.tokens = (progress[k] for k in ("step", "rows", "tokens"))
    return progress["data"]


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
