"""Trains one small model in several layouts: `torchrun layouts.py FOLDER` on 2 or 4 ranks.

With `none`, `moe` or `full` behind the folder: those of `EVERY`, with that recomputation; with
`fp8` those of `FP8`.

All layouts of a number of ranks are trained by the same processes, since starting these takes
longest. Rows of `metrics.jsonl` are the result: FOLDER/<layout>/metrics.jsonl.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from runs import write_tokens

from ling.checkpoint.dcp.local import local_part
from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.recipe import (
    CheckpointConfig,
    DataConfig,
    PretrainConfig,
    TrainConfig,
)
from ling.data.indexed import IndexedWriter
from ling.data.tokenizer import train_tokenizer
from ling.train import loop
from ling.train.parallel.group import ALONE, World, join, leave
from ling.train.setup import setup
from ling.train.state import TrainState

STEPS, HALF = 20, 10
# Name: degrees; by number of ranks. The end of a name says what else is not as in "one". Context
# parallel adds up in another order inside a micro-batch as well, which AdamW magnifies: on one
# process, turning the rows of each micro-batch round moves norms by 1.2e-6 at a learning rate of
# 1e-3, and by 7e-8 at 1e-4.
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "one": {},
        "one, small steps": {},
        "one, isolated, small steps": {},
        "recompute full": {"recompute": "full"},
        "one, small steps, bf16": {},
        "one, 4 per token, small steps, bf16": {},
        "one, fp8, bf16": {},
    },
    2: {
        "replicate 2": {"dp_replicate": 2},
        "fsdp 2, small steps, bf16": {"dp_shard": 2},
        "fsdp 2, recompute full": {"dp_shard": 2, "recompute": "full"},
        "cp 2, isolated, small steps": {"cp": 2},
        "cp 2 with ep 2, recompute full, small steps": {"cp": 2, "ep": 2, "recompute": "full"},
        "cp 2, small steps, bf16": {"cp": 2},
        "pp 2, recompute full": {"pp": 2, "recompute": "full"},
        "pp 2 × 2 stages, isolated, small steps": {"pp": 2, "pp_stages_per_rank": 2},
        "ep 2": {"dp_shard": 2, "ep": 2},
    },
    4: {
        "ep 2 × fsdp 2, recompute moe": {"dp_shard": 4, "ep": 2, "recompute": "moe"},
        "cp 2 × fsdp 2, recompute moe, small steps": {"dp_shard": 2, "cp": 2, "recompute": "moe"},
        "cp 4 with ep 2, isolated, small steps": {"cp": 4, "ep": 2},
        "pp 4, recompute moe": {"pp": 4, "recompute": "moe"},
        "pp 2 × ep 2": {"pp": 2, "dp_shard": 2, "ep": 2},
        "pp 2 × cp 2, isolated, small steps": {"pp": 2, "cp": 2},
        "replicate 2 × ep 2": {"dp_replicate": 2, "dp_shard": 2, "ep": 2},
        "ep 2 × fsdp 2, recompute moe, 4 per token, small steps, bf16": {
            "dp_shard": 4,
            "ep": 2,
            "recompute": "moe",
        },
        "ep 2 × fsdp 2, fp8, bf16": {"dp_shard": 4, "ep": 2},
    },
}

# All that the recipe's degrees are promised for, each with every kind of recomputation (slow).
EVERY: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        "replicate 2": {"dp_replicate": 2},
        "fsdp 2": {"dp_shard": 2},
        "ep 2": {"dp_shard": 2, "ep": 2},
        "pp 2": {"pp": 2},
        "cp 2, small steps": {"cp": 2},
    },
    4: {
        "ep 4": {"dp_shard": 4, "ep": 4},
        "ep 2 × fsdp 2": {"dp_shard": 4, "ep": 2},
        "pp 4": {"pp": 4},
        "pp 2 × ep 2": {"pp": 2, "dp_shard": 2, "ep": 2},
        "pp 2 × cp 2, small steps": {"pp": 2, "cp": 2},
    },
}

# Products in FP8, weights gathered as bytes; beside them the same in bfloat16 (slow).
FP8: dict[int, dict[str, dict[str, Any]]] = {
    1: {"one": {}},
    2: {
        "ep 2": {"dp_shard": 2, "ep": 2},
        "fsdp 2": {"dp_shard": 2},
        "pp 2": {"pp": 2},
        "cp 2": {"cp": 2},
        "replicate 2": {"dp_replicate": 2},
    },
    4: {
        "ep 2 × fsdp 2": {"dp_shard": 4, "ep": 2},
        "pp 2 × fsdp 2": {"pp": 2, "dp_shard": 2},
    },
}
# Wide enough for parts of whole blocks of 128 on 2 ranks.
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 256,
    "head_dim": 64,
    "initializer_range": 0.006,  # that of the released models
}


# What goes on from half a run of one process, and of which one process does the second half.
RESUMED = {
    2: ("ep 2", "cp 2, isolated, small steps", "pp 2, recompute full"),
    4: ("replicate 2 × ep 2", "pp 2 × ep 2"),
}
RESUMED_ALONE = (
    "replicate 2",
    "ep 2 × fsdp 2, recompute moe",
    "cp 4 with ep 2, isolated, small steps",
    "pp 2 × 2 stages, isolated, small steps",
    "pp 4, recompute moe",
)
# Moments in bytes: a run is stopped after half and goes on, with the same ranks and with one. Its
# blocks are those of shards, so that it does not equal one process.
PACKED = {4: ("8-bit, ep 2 × fsdp 2", {"dp_shard": 4, "ep": 2})}


# Parts of a name that its run of one process has, too.
SETTINGS = ("isolated", "4 per token", "wide", "fp8", "small steps", "bf16")


def alone(name: str) -> str:
    """The run of one process that a layout is compared with."""
    return ", ".join(["one", *(n for n in SETTINGS if n in name)])


def recipe(folder: Path, name: str, degrees: dict[str, Any]) -> PretrainConfig:
    isolated = "isolated" in name
    text = str(folder / ("documents" if isolated else "text"))
    fp8 = "fp8" in name
    wide = fp8 or "wide" in name
    overrides: dict[str, Any] = WIDE if wide else {}
    # Few tokens that change experts, for a last bit, count much among few.
    lr, length = (1e-5, 128) if wide else (1e-4 if "small steps" in name else 1e-3, 16)
    return PretrainConfig(
        model="ling-tiny",
        model_overrides=overrides | ({"num_experts_per_tok": 4} if "4 per token" in name else {}),
        data=DataConfig(
            prefix=[text],
            valid_prefix=[text],
            seq_length=length,
            isolate_documents=isolated,
            tokenizer=str(folder / "words") if isolated else None,
        ),
        train=TrainConfig(
            steps=STEPS,
            global_batch_size=8,
            micro_batch_size=2,
            dtype="bfloat16" if "bf16" in name else "float32",
            fp8="blockwise" if fp8 else "off",
            fp8_param_gather=fp8,
            fp8_pad_routing="padded" in name,
            threads=1,
            eval_rows=3,
        ),
        optim=OptimConfig(
            name="adamw8bit" if "8-bit" in name else "adamw", lr=lr, schedule="constant"
        ),
        checkpoint=CheckpointConfig(interval_steps=HALF, keep_last=0, async_save=bool(degrees)),
        parallel=ParallelConfig(**degrees),
    )


def write_data(folder: Path) -> None:
    """Random tokens, without a tokenizer and in short documents with one."""
    write_tokens(folder / "text")
    tokenizer = train_tokenizer(["many words, and again many words\n"] * 9, 300)
    tokenizer.save(folder / "words")
    rng = np.random.RandomState(1)
    ids = rng.randint(0, 300, 4000)
    ids[rng.rand(4000) < 0.2] = tokenizer.eod_token_id
    with IndexedWriter(folder / "documents", np.uint16) as writer:
        writer.add_document(ids.tolist())


def quiet(text: str) -> None:
    pass


def train_alone(folder: Path) -> None:
    """All layouts of one process, and the same micro-batches in the opposite order."""
    for name, degrees in LAYOUTS[1].items():
        loop.run_in(ALONE, recipe(folder, name, degrees), folder / name, quiet)
    write_bytes(ALONE, folder, {})
    write_gradients(ALONE, folder, {})
    in_order = TrainState.first_rows
    TrainState.first_rows = lambda *args: in_order(*args)[::-1]
    try:
        loop.run_in(ALONE, recipe(folder, "one", {}), folder / "reversed", quiet)
    finally:
        TrainState.first_rows = in_order


def write_bytes(world: World, folder: Path, degrees: dict[str, Any]) -> None:
    """`bytes-<ranks>.json`: what this rank keeps of weights, gradients and AdamW's moments."""
    out = folder / f"bytes {world.size}"
    run = setup(recipe(folder, "bytes", degrees), out, quiet, world=world)
    model, optimizer = run.state.model, run.state.optimizer
    run.objective.losses(run.state.network, run.reader.read(0, 2)).total.backward()
    optimizer.step()
    moments = [t for s in optimizer.state.values() for t in s.values() if t.ndim]
    kept = {
        "weights": list(model.parameters()),
        "gradients": [p.grad for p in model.parameters() if p.grad is not None],
        "moments": moments,
    }
    sizes = {what: sum(local_part(t).nbytes for t in tensors) for what, tensors in kept.items()}
    if world.leads:
        (folder / f"bytes-{world.size}.json").write_text(json.dumps(sizes))


def write_gradients(world: World, folder: Path, degrees: dict[str, Any]) -> None:
    """`gradients-<ranks>.json`: digests of all gradients of FP8, by recomputation and rank."""
    found: dict[str, list[dict[str, str]]] = {}
    for what in ("none", "moe", "full"):
        made = recipe(folder, "padded, fp8, bf16", {**degrees, "recompute": what})
        run = setup(made, folder / f"gradients {world.size} {what}", quiet, world=world)
        rows = run.reader.read(2 * world.rank, 2)
        run.objective.losses(run.state.network, rows).total.backward()
        parts = {n: local_part(p.grad) for n, p in run.state.model.named_parameters()}
        own = {n: hashlib.sha256(g.numpy().tobytes()).hexdigest() for n, g in parts.items()}
        found[what] = world.gather(own)
    if world.leads:
        (folder / f"gradients-{world.size}.json").write_text(json.dumps(found))


def first_half(run: Path, out: Path) -> None:
    """A run that was stopped after half of the steps of `run`."""
    step = f"step-{HALF}"
    shutil.copytree(run / "checkpoints" / step, out / "checkpoints" / step)
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(run / name, out / name)


def with_recomputation(name: str, what: str) -> str:
    """The run of a layout of `EVERY`."""
    return f"{name}, recompute {what}"


def in_fp8(name: str) -> dict[str, str]:
    """The runs of a layout of `FP8`, by what its products are."""
    return {"fp8": f"{name}, fp8, bf16", "bf16": f"{name}, wide, bf16"}


def train_fp8(world: World, folder: Path) -> None:
    """All layouts of `FP8`."""
    for name, degrees in FP8[world.size].items():
        for run in in_fp8(name).values():
            assert loop.run_in(world, recipe(folder, run, degrees), folder / run, quiet) == 0


def train_every(folder: Path, what: str) -> None:
    """All layouts of `EVERY` with this kind of recomputation."""
    world = join(torch.device("cpu"), None)
    for name, degrees in EVERY[world.size].items():
        run = with_recomputation(name, what)
        made = recipe(folder, run, {**degrees, "recompute": what})
        assert loop.run_in(world, made, folder / run, quiet) == 0
    leave()


def main(folder: Path) -> None:
    world = join(torch.device("cpu"), None)
    for name, degrees in LAYOUTS[world.size].items():
        assert loop.run_in(world, recipe(folder, name, degrees), folder / name, quiet) == 0
    for name in RESUMED[world.size]:
        out, again = folder / f"one, then {name}", recipe(folder, name, LAYOUTS[world.size][name])
        world.lead(partial(first_half, folder / alone(name), out))
        assert loop.run_in(world, again, out, quiet) == 0
    if world.size in PACKED:
        train_packed(world, folder, *PACKED[world.size])
    write_bytes(world, folder, {"dp_shard": world.size})
    if world.size == 2:
        write_gradients(world, folder, {"dp_shard": 2, "ep": 2})
    leave()


def train_packed(world: World, folder: Path, name: str, degrees: dict[str, Any]) -> None:
    """`name`, and its second half again."""
    assert loop.run_in(world, recipe(folder, name, degrees), folder / name, quiet) == 0
    again = folder / f"{name}, again"
    world.lead(partial(first_half, folder / name, again))
    assert loop.run_in(world, recipe(folder, name, degrees), again, quiet) == 0


if __name__ == "__main__":
    if sys.argv[2:] == ["fp8"]:
        ranks = join(torch.device("cpu"), None)
        train_fp8(ranks, Path(sys.argv[1]))
        leave()
    elif len(sys.argv) > 2:
        train_every(Path(sys.argv[1]), sys.argv[2])
    else:
        main(Path(sys.argv[1]))
