"""Bytes of FP8 training: parameters, gradients, states and copies of weights, for each saving.

    python benchmarks/fp8_savings.py

Measured on ling-nano, two ranks that share the experts (EP 2 × FSDP 2: a rank has its experts whole
and the rest is gathered, as on the 8 GPUs of Ling-mini's recipes), between the forward and the
backward pass, where most copies of weights are there; and counted, for the same and for Ling-mini
on 8 GPUs, by the functions of `ling plan` (`plan/weights.py`). Transposed copies are kept as on a
GPU; a CPU needs none. Prints Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from ling.checkpoint.dcp.local import local_part
from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.data.indexed import IndexedWriter
from ling.plan.shape import FP32, shape_of
from ling.plan.weights import RankWeights
from ling.presets import preset
from ling.train.fp8.weights import kept_weights, save_memory
from ling.train.parallel.group import join, leave
from ling.train.setup import setup

RANKS = 2
ON = {"fp8": "blockwise"}
SAVINGS = {
    "FP8 weights as the only copy": {"fp8_param_gather": True},
    "transposed on demand": {"fp8_transpose_on_demand": True},
    "padded routing map": {"fp8_pad_routing": True},
}
EIGHT_BITS = {"name": "adamw8bit"}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bfloat16": ({}, {}),
    "FP8": (ON, {}),
    **{name: (ON | saving, {}) for name, saving in SAVINGS.items()},
    "8-bit AdamW": (ON, EIGHT_BITS),
    "all": (ON | {key: True for saving in SAVINGS.values() for key in saving}, EIGHT_BITS),
}
KINDS = {
    "parameters": "float32 parameters",
    "gradients": "gradients",
    "states": "optimizer states",
    "copies": "copies of weights",
    "unit": "gathered at once",
    "sent": "gathered in a forward pass",
}


class CountedGather:
    """What `FSDPModule.set_custom_all_gather` takes; notes the bytes of each gathered unit."""

    def __init__(self) -> None:
        self.units: list[int] = []

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """A buffer for all ranks' parts."""
        out = torch.empty(*size, dtype=dtype, device=device)
        self.units.append(out.nbytes)
        return out

    def __call__(self, output_tensor: Any, input_tensor: Any, group: Any, async_op: bool) -> Any:
        return dist.all_gather_into_tensor(output_tensor, input_tensor, group, async_op)


def recipe(folder: Path, train: dict[str, Any], optim: dict[str, Any]) -> PretrainConfig:
    """Two rows of 96 tokens on each rank."""
    return PretrainConfig(
        model="ling-nano",
        data=DataConfig(prefix=[str(folder / "text")], seq_length=96),
        train=TrainConfig(steps=1, global_batch_size=4, micro_batch_size=2, threads=1, **train),
        optim=OptimConfig(**optim),
        parallel=ParallelConfig(dp_shard=RANKS, ep=RANKS),
    )


def measured(folder: Path, name: str, world: Any) -> dict[str, int]:
    """Bytes of this rank by kind."""
    made = recipe(folder, *ROWS[name])
    run = setup(made, folder / name, lambda text: None, world=world)
    network, model = run.state.network, run.state.model
    save_memory(network, made.train, reads_transposed=True)
    counted = CountedGather()
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(cast(Any, counted))
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    casts: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if (
            tensor.dtype == torch.bfloat16
            and {tuple(tensor.shape), tuple(tensor.t().shape)} & shapes
        ):
            casts[tensor.untyped_storage().data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: note(t) if t.ndim == 2 else t, lambda t: t
    ):
        losses = run.objective.losses(network, run.reader.read(0, 2))
    copies = sum(kept.nbytes for kept in kept_weights(network)) + sum(casts.values())
    forward = list(counted.units)
    losses.total.backward()
    run.state.optimizer.step()
    states = [t for s in run.state.optimizer.state.values() for t in s.values()]
    return {
        "parameters": sum(local_part(p).nbytes for p in model.parameters()),
        "gradients": sum(local_part(p.grad).nbytes for p in model.parameters()),
        "states": sum(
            local_part(t).nbytes for t in states if isinstance(t, torch.Tensor) and t.ndim
        ),
        "copies": copies,
        "unit": max(forward[1:]),  # the first are embedding and head
        "sent": sum(forward),
    }


# ---- count -------------------------------------------------------------------------------------


def counted(model: str, ranks: int, name: str) -> dict[str, float]:
    """What `measured` finds, as `ling plan` counts it."""
    made = recipe(Path("nowhere"), *ROWS[name])
    made = dataclasses.replace(made, parallel=ParallelConfig(dp_shard=ranks, ep=ranks))
    rank = RankWeights(shape_of(preset(model), made.data.seq_length), made, "cuda", 0)
    return {
        "parameters": FP32 * rank.numbers(),
        "gradients": FP32 * rank.numbers(),
        "states": rank.states(),
        "copies": rank.fp8_weights() + rank.casts(),
        "unit": max(rank.each(rank.unit)),
        "sent": rank.total(rank.gathered_bytes),
    }


def count_all(model: str, ranks: int) -> list[dict[str, Any]]:
    """A row for each saving."""
    return [{"name": name, **counted(model, ranks, name)} for name in ROWS]


# ---- measurement -------------------------------------------------------------------------------


def side(folder: Path) -> None:
    """A rank that torchrun started."""
    world = join(torch.device("cpu"), 300)
    for name in ROWS:
        found = measured(folder, name, world)
        if world.leads:
            print(json.dumps({"name": name, **found}), flush=True)
    leave()


def start(folder: Path) -> list[dict[str, Any]]:
    """The lines of rank 0."""
    with IndexedWriter(folder / "text", np.uint16) as writer:
        writer.add_document(np.random.RandomState(0).randint(0, 4000, 20_000).tolist())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(RANKS), __file__, "--side", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def table(rows: list[dict[str, Any]], unit: float, digits: int) -> str:
    """Markdown, in multiples of `unit` bytes."""
    lines = [f"| | {' | '.join(KINDS.values())} |", f"|---|{'---|' * len(KINDS)}"]
    for row in rows:
        numbers = (f"{row[kind] / unit:.{digits}f}" for kind in KINDS)
        lines.append(f"| {row['name']} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args.side)
        return
    with tempfile.TemporaryDirectory() as name:
        rows = start(Path(name))
    print("ling-nano on two ranks, measured, MB of a rank:\n")
    print(table(rows, 1e6, 2))
    print("\nThe same, counted:\n")
    print(table(count_all("ling-nano", RANKS), 1e6, 2))
    print("\nLing-mini-2.0 on 8 GPUs, counted, GB of a rank:\n")
    print(table(count_all("ling-mini-2.0", 8), 1e9, 3))


if __name__ == "__main__":
    main()
