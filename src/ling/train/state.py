"""What a checkpoint of a run remembers: model, optimizer, RNG, and the position in the data."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.dcp.folder import read_tensors
from ..checkpoint.dcp.writer import write_tensors
from ..checkpoint.run_folder import write_manifest
from ..config.parallel import ParallelConfig
from ..config.recipe import TrainConfig
from ..data.tokenizer import Tokenizer
from ..files.atomic import hash_file, put_in_place, read_json, scratch_folder, scratch_path
from ..model.ling import Ling
from .device import gpu_key, random_states, restore_random
from .forward import LingForTraining
from .parallel.group import World


@dataclass
class TrainState:
    """What changes while a run trains, and what a checkpoint restores.

    `step`, `rows` and `tokens` are done; `rows` is the position in the data, which may start
    again from 0. `nonfinite` counts steps in a row without a finite loss or gradient. `data` is the
    `data_state` that `rows` refers to, `start` what the run began from (`resume.start_of`).
    """

    network: LingForTraining
    optimizer: torch.optim.Optimizer
    device: torch.device
    world: World = field(default_factory=World)
    tokenizer: Tokenizer | None = None
    data: dict[str, Any] = field(default_factory=dict)
    start: str = ""
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
        counters = {"step": self.step, "rows": self.rows, "tokens": self.tokens}
        return {**counters, "data": self.data, "start": self.start}

    def first_rows(self, cfg: TrainConfig, parallel: ParallelConfig) -> list[int]:
        """First row of each micro-batch of the next step that this process reads.

        Data-parallel ranks take turns, so one process reads the micro-batches of all in the same
        order.
        """
        rank, ranks = parallel.place(self.world.rank).dp, parallel.dp
        count = cfg.batch_size(self.step + 1) // (cfg.micro_batch_size * ranks)
        numbers = (micro * ranks + rank for micro in range(count))
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
                step=torch.zeros((), device=p.device),
                exp_avg=torch.zeros_like(p),
                exp_avg_sq=torch.zeros_like(p),
            )
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"optimizer.{key}.{name}"] = moments[key]
    tensors.update(random_states(state.device, state.world.rank))
    return tensors


def save(folder: Path, state: TrainState) -> None:
    """Write `folder` so that it appears complete or not at all.

    All ranks call this: each writes and hashes its part, rank 0 the rest, and gives the name.
    """
    world, tmp = state.world, scratch_path(folder)
    with contextlib.ExitStack() as held:
        world.lead(lambda: held.enter_context(scratch_folder(folder)))
        tensors = state_tensors(state)
        world.together(lambda: write_tensors(tmp, tensors, world.slow))
        own = f"__{world.rank}_*.distcp"
        hashes = world.together(lambda: {p.name: hash_file(p) for p in tmp.glob(own)})
        known = {name: value for part in world.gather(hashes) for name, value in part.items()}
        world.lead(lambda: _commit(folder, state, known))


def _commit(folder: Path, state: TrainState, hashes: dict[str, str]) -> None:
    """Add what describes the tensors, and the name."""
    tmp = scratch_path(folder)
    (tmp / "config.json").write_text(json.dumps(state.model.config.to_dict(), indent=2) + "\n")
    (tmp / "state.json").write_text(json.dumps(state.progress()) + "\n")
    write_manifest(tmp, hashes)
    put_in_place(tmp, folder)


def read_progress(folder: Path) -> dict[str, Any]:
    """What `TrainState.progress` was when the checkpoint was saved."""
    return read_json(folder / "state.json")


def load(folder: Path, state: TrainState) -> None:
    """Restore model, optimizer, RNG and counters in place; `data` and `start` stay."""
    tensors = state_tensors(state)
    rank = state.world.rank
    # A run that was on CPUs, or on fewer GPUs, has none for this one: it goes on with its own.
    read_tensors(folder, tensors, may_lack=gpu_key(rank))
    restore_random(tensors, state.device, rank)
    progress = read_progress(folder)
    state.step, state.rows, state.tokens = (progress[k] for k in ("step", "rows", "tokens"))
