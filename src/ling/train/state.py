"""What a checkpoint of a run remembers: model, optimizer, RNG, and the position in the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.dcp.folder import read_tensors
from ..checkpoint.dcp.local import Deferred
from ..config.parallel import ParallelConfig
from ..config.recipe import TrainConfig
from ..data.tokenizer import Tokenizer
from ..files.atomic import read_json
from ..model.ling import Ling
from .device import gpu_key, random_states, restore_random
from .forward import LingForTraining
from .fp8.weights import renew
from .moments import is_scales, moment_tensors, stored_as
from .parallel.group import World

# What a checkpoint keeps as it is; older ones have the first three.
_COUNTERS = ("step", "rows", "tokens", "skipped", "skipped_from", "norms")


@dataclass
class TrainState:
    """What changes while a run trains, and what a checkpoint restores.

    `step`, `rows` and `tokens` are done; `rows` is the position in the data, which may start
    again from 0. `skipped` counts steps in a row that were left out, the first of which began at
    row `skipped_from`; `norms` are those of the last steps that were taken, where spikes are looked
    for. `rollbacks` and the rows that they leave out, `left_out`, are kept by `rollback.py`. `data`
    is the `data_state` that `rows` refers to, `start` what the run began from (`resume.start_of`);
    with a `base`, its name, checkpoints hold what is trained only. `ended` is the `early_stop` on
    which a run ended before its last step, 0 of others.
    """

    network: LingForTraining
    optimizer: torch.optim.Optimizer
    device: torch.device
    world: World = field(default_factory=World)
    tokenizer: Tokenizer | None = None
    data: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    base: str | None = None
    ended: int = 0
    step: int = 0
    rows: int = 0
    tokens: int = 0
    skipped: int = 0
    skipped_from: int = 0
    norms: list[float] = field(default_factory=list)
    rollbacks: int = 0
    left_out: list[tuple[int, int]] = field(default_factory=list)

    @property
    def model(self) -> Ling:
        """The model whose names checkpoints use."""
        return self.network.ling

    def progress(self) -> dict[str, Any]:
        """Counters of a checkpoint."""
        counters = {name: getattr(self, name) for name in (*_COUNTERS, "data", "start")}
        # Of some runs only.
        more = {name: v for name in ("base", "ended") if (v := getattr(self, name))}
        return {**counters, **more, "moments": stored_as(self.optimizer)}

    @property
    def next_row(self) -> int:
        """The first row of the next step: `rows`, or behind rows that are left out."""
        row = self.rows
        for first, end in sorted(self.left_out):
            if first <= row < end:
                row = end
        return row

    def first_rows(self, cfg: TrainConfig, parallel: ParallelConfig) -> list[int]:
        """First row of each micro-batch of the next step that this process reads.

        Data-parallel ranks take turns, so one process reads the micro-batches of all in the same
        order.
        """
        rank, ranks = parallel.place(self.world.rank).dp, parallel.dp
        count = cfg.batch_size(self.step + 1) // (cfg.micro_batch_size * ranks)
        numbers = (micro * ranks + rank for micro in range(count))
        return [self.next_row + number * cfg.micro_batch_size for number in numbers]


def state_tensors(state: TrainState) -> dict[str, Tensor | Deferred]:
    """Model state under `model.`, optimizer moments under `optimizer.<moment>.`, the RNG state.

    A sharded parameter is in here as it is: DCP saves and reads shards.
    """
    trained = {name: p for name, p in state.model.named_parameters() if p.requires_grad}
    kept = state.model.state_dict() if state.base is None else trained
    tensors: dict[str, Tensor | Deferred] = {f"model.{k}": v for k, v in kept.items()}
    for name, p in trained.items():
        tensors.update(moment_tensors(state.optimizer, name, p))
    tensors.update(random_states(state.device, state.world.rank))
    return tensors


def read_progress(folder: Path) -> dict[str, Any]:
    """What `TrainState.progress` was when the checkpoint was saved."""
    return read_json(folder / "state.json")


def load(folder: Path, state: TrainState) -> None:
    """Restore model, optimizer, RNG and counters in place; `data` and `start` stay."""
    tensors = state_tensors(state)
    rank = state.world.rank
    # A run that was on CPUs, or on fewer GPUs, has none for this one: it goes on with its own.
    may_lack = {gpu_key(rank), *filter(is_scales, tensors)}
    read_tensors(folder, tensors, may_lack=may_lack)
    renew(state.network)
    restore_random(tensors, state.device, rank)
    progress = read_progress(folder)
    for name in _COUNTERS:
        older: Any = [] if name == "norms" else 0
        setattr(state, name, progress.get(name, older))
    state.ended = progress.get("ended", 0)
