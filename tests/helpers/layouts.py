"""Trains one small model in several layouts: `torchrun layouts.py FOLDER` on 2 or 4 ranks.

All layouts of a number of ranks are trained by the same processes, since starting these takes
longest. Rows of `metrics.jsonl` are the result: FOLDER/<layout>/metrics.jsonl.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from ling.config.parallel import ParallelConfig
from ling.config.recipe import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)
from ling.train import loop
from ling.train.parallel.group import ALONE, join, leave
from ling.train.state import TrainState

STEPS, HALF = 20, 10
# Name: degrees; by number of ranks.
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"one": {}, "recompute full": {"recompute": "full"}, "one, bf16": {}},
    2: {
        "replicate 2": {"dp_replicate": 2},
        "fsdp 2, bf16": {"dp_shard": 2},
        "fsdp 2, recompute full": {"dp_shard": 2, "recompute": "full"},
        "ep 2": {"dp_shard": 2, "ep": 2},
    },
    4: {
        "ep 2 × fsdp 2, recompute moe": {"dp_shard": 4, "ep": 2, "recompute": "moe"},
        "ep 2 × fsdp 2, bf16": {"dp_shard": 4, "ep": 2},
        "replicate 2 × ep 2": {"dp_replicate": 2, "dp_shard": 2, "ep": 2},
    },
}


def recipe(folder: Path, name: str, degrees: dict[str, Any]) -> PretrainConfig:
    return PretrainConfig(
        model="ling-tiny",
        data=DataConfig(
            prefix=[str(folder / "text")], valid_prefix=[str(folder / "text")], seq_length=16
        ),
        train=TrainConfig(
            steps=STEPS,
            global_batch_size=8,
            micro_batch_size=2,
            dtype="bfloat16" if name.endswith("bf16") else "float32",
            threads=1,
            eval_rows=2,
        ),
        optim=OptimConfig(lr=1e-3, schedule="constant"),
        checkpoint=CheckpointConfig(interval_steps=HALF, keep_last=0),
        parallel=ParallelConfig(**degrees),
    )


def quiet(text: str) -> None:
    pass


def train_alone(folder: Path) -> None:
    """All layouts of one process, and the same micro-batches in the opposite order."""
    for name, degrees in LAYOUTS[1].items():
        loop.run_in(ALONE, recipe(folder, name, degrees), folder / name, quiet)
    in_order = TrainState.first_rows
    TrainState.first_rows = lambda *args: in_order(*args)[::-1]
    try:
        loop.run_in(ALONE, recipe(folder, "one", {}), folder / "reversed", quiet)
    finally:
        TrainState.first_rows = in_order


def first_half(run: Path, out: Path) -> None:
    """A run that was stopped after half of the steps of `run`."""
    step = f"step-{HALF}"
    shutil.copytree(run / "checkpoints" / step, out / "checkpoints" / step)
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(run / name, out / name)


def main(folder: Path) -> None:
    world = join(torch.device("cpu"), None)
    for name, degrees in LAYOUTS[world.size].items():
        assert loop.run_in(world, recipe(folder, name, degrees), folder / name, quiet) == 0
    name, degrees = next(reversed(LAYOUTS[world.size].items()))
    out = folder / f"one, then {name}"
    world.lead(lambda: first_half(folder / "one", out))
    assert loop.run_in(world, recipe(folder, name, degrees), out, quiet) == 0
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
