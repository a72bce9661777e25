"""Bytes of FP8 training: parameters, gradients, states and copies of weights, for each saving.

    python benchmarks/fp8_savings.py

Measured on ling-nano, two ranks that share the experts (EP 2 × FSDP 2: a rank has its experts whole
and the rest is gathered, as on the 8 GPUs of Ling-mini's recipes), between the forward and the
backward pass, where most copies of weights are there; and counted, for the same and for Ling-mini
on 8 GPUs, from the parts that the trainer gives a rank. Transposed copies are kept as on a GPU; a
CPU needs none. Prints Markdown.
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
from ling.model.layers import Linear
from ling.model.ling import Block, Ling
from ling.ops.formats import FP8_BLOCK
from ling.presets import preset
from ling.train.forward import LingForTraining
from ling.train.fp8.gather import FSDP_DIMS, products_of, whole_blocks
from ling.train.fp8.weights import KeptWeight, kept_weights, save_memory
from ling.train.parallel.apply import parallelise
from ling.train.parallel.group import World, join, leave
from ling.train.parallel.mesh import make_meshes
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
        "states": sum(local_part(t).nbytes for t in states if isinstance(t, torch.Tensor)),
        "copies": copies,
        "unit": max(forward[1:]),  # the first are embedding and head
        "sent": sum(forward),
    }


# ---- count -------------------------------------------------------------------------------------


def counted(model: str, ranks: int, name: str) -> dict[str, int]:
    """What `measured` finds, from the shapes of a network without storage on rank 0 of `ranks`."""
    made = recipe(Path("nowhere"), *ROWS[name])
    made = dataclasses.replace(made, parallel=ParallelConfig(dp_shard=ranks, ep=ranks))
    with torch.device("meta"):
        network = LingForTraining(Ling(preset(model)))
    network.ling.compute_dtype = torch.bfloat16
    meshes = make_meshes(made.parallel, "cpu", World(0, ranks))
    parallelise(made, meshes, network)
    save_memory(network, made.train, reads_transposed=True)
    parts = [local_part(p).numel() for p in network.parameters()]
    products = list(products_of(network))
    of_bytes = {p for kept, params in products for p in params if as_bytes(kept, params)}
    sizes = {p: sent_size(p, 1 if p in of_bytes else 4) for p in network.parameters()}
    blocks = [[p for p in b.parameters()] for b in network.modules() if isinstance(b, Block)]
    casts = [m.weight for m in network.modules() if type(m) is Linear and m is not network.head]
    return {
        "parameters": 4 * sum(parts),
        "gradients": 4 * sum(parts),
        "states": sum(state_bytes(n, made.optim.name) for n in parts),
        "copies": round(sum(copy_bytes(kept, params) for kept, params in products))
        + 2 * sum(whole(p) for p in casts),
        "unit": max(sum(sizes[p] for p in block) for block in blocks),
        "sent": sum(sizes.values()),
    }


def whole(p: Any) -> int:
    """Numbers of a parameter once FSDP has gathered it."""
    named = zip(p.device_mesh.mesh_dim_names, p.placements, strict=True)
    over = [name for name, _ in named if name in FSDP_DIMS]
    ranks = p.device_mesh[over[0]].size() if over else 1
    return local_part(p).numel() * ranks


def as_bytes(kept: KeptWeight, params: list[Any]) -> bool:
    """Whether FSDP gathers the bytes of a product's weight."""
    stacked = len(params) > 1
    cut = kept.as_bytes and kept.of_gathered
    return cut and all(whole_blocks(p, stacked=stacked) is not None for p in params)


def sent_size(p: Any, item: int) -> int:
    """Bytes of a parameter that FSDP gathers; 0 for experts that a rank has whole."""
    gathered = set(p.device_mesh.mesh_dim_names) & set(FSDP_DIMS)
    return whole(p) * item if gathered else 0


def copy_bytes(kept: KeptWeight, params: list[Any]) -> float:
    """Bytes of an FP8 weight between the passes."""
    size, scales = sum(whole(p) for p in params), 4 * sum(blocks_of(p) for p in params)
    if as_bytes(kept, params):
        return sum(local_part(p).numel() for p in params) + scales
    return (size + scales) * (2 if kept.keep_transposed else 1)


def blocks_of(p: Any) -> int:
    """Blocks of 128 × 128 of a gathered parameter."""
    rows, columns = p.shape[-2:]
    experts = whole(p) // (rows * columns)
    return experts * -(-rows // FP8_BLOCK) * -(-columns // FP8_BLOCK)


def state_bytes(n: int, name: str) -> int:
    """Two moments of a parameter with `n` numbers, and its count of steps."""
    if name == "adamw" or n < 4096:
        return 8 * n + 4
    return 2 * (n + 4 * -(-n // 256)) + 4


def count_all(model: str, ranks: int) -> list[dict[str, Any]]:
    """A row for each saving, without a process for each rank."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    rows = [{"name": name, **counted(model, ranks, name)} for name in ROWS]
    dist.destroy_process_group()
    return rows


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
