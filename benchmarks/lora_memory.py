"""Memory of fine-tuning with adapters against full fine-tuning, recomputation in both.

    python benchmarks/lora_memory.py [--model peers|nano] [--rows 4] [--length 1024] [--steps 3]
        [--micro-batches 1]

The model is written once with random weights in bfloat16 (438 MB for `peers`, the 219M shape of the
measured peers). Each method then trains in a process of its own, by turns: network and weights as
`ling sft` makes them, bfloat16, `--parallel.recompute full`. Measured is the most that the process
held beyond what it held before the model (the weights' loading counts too); beside it what
`ling plan` counts. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from async_save import SHAPE

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.open import config_at
from ling.config.model import ModelConfig
from ling.config.parallel import ParallelConfig
from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig, SFTOptimConfig, SFTTrainConfig
from ling.model.ling import from_config
from ling.ops.processes import resident_bytes
from ling.plan.memory import memory
from ling.plan.shape import shape_of
from ling.presets import preset
from ling.train.batches import Batch
from ling.train.heap import keep_freed_memory
from ling.train.network import build_network
from ling.train.objectives.sft import FineTuning
from ling.train.optim import build_optimizer
from ling.train.parallel.apply import parallelise
from ling.train.state import TrainState
from ling.train.step import train_step

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {},
    "lora, adamw8bit": {"name": "adamw8bit"},
}


def recipe(folder: Path, method: str, args: argparse.Namespace) -> SFTConfig:
    """Rank 16, experts 4: the defaults."""
    return SFTConfig(
        model=str(folder),
        method="full" if method == "full" else "lora",
        data=ChatDataConfig(files=["random tokens"], seq_length=args.length),
        train=SFTTrainConfig(
            steps=args.steps,
            global_batch_size=args.rows * args.micro_batches,
            micro_batch_size=args.rows,
        ),
        lora=LoRAConfig(),
        optim=SFTOptimConfig(lr=1e-4, schedule="constant", **METHODS[method]),
        parallel=ParallelConfig(recompute="full"),
    )


def trained(folder: Path, method: str, args: argparse.Namespace) -> dict[str, float]:
    """Bytes that this process held at most beyond what it holds now."""
    keep_freed_memory()
    before = resident_bytes(os.getpid()) or 0
    made, cfg, cpu = recipe(folder, method, args), config_at(folder), torch.device("cpu")
    network = build_network(made, cfg, cpu, partial(parallelise, made, None))
    state = TrainState(network, build_optimizer(network.ling, made.optim), cpu)
    generator = torch.Generator().manual_seed(0)
    objective, losses = FineTuning(0.0, None, network.num_mtp_layers), []
    for _ in range(args.steps):
        ids = [
            torch.randint(0, cfg.vocab_size, (args.rows, args.length + 1), generator=generator)
            for _ in range(args.micro_batches)
        ]
        batches = [Batch(x[:, :-1], x[:, 1:], torch.ones(args.rows, args.length)) for x in ids]
        losses.append(train_step(state, objective, batches, made.train, made.optim).losses["loss"])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return {
        "measured": most - before,
        "process": most,
        "expected": memory(shape_of(cfg, args.length), made, "cpu")[0].peak,
        "trained_parameters": trainable,
        "last_loss": losses[-1],
    }


def shape(name: str) -> ModelConfig:
    cfg = preset("ling-nano")
    return cfg.replace(**SHAPE) if name == "peers" else cfg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["peers", "nano"], default="peers")
    for name, value in (("rows", 4), ("length", 1024), ("steps", 3), ("micro-batches", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        folder, method = args.child
        print(json.dumps(trained(Path(folder), method, args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        cfg = shape(args.model)
        save_model(from_config(cfg, dtype=torch.bfloat16, seed=0), cfg, Path(temporary))
        found = {}
        for method in METHODS:
            child = [sys.executable, *sys.argv, "--child", temporary, method]
            done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
            found[method] = json.loads(done.stdout.splitlines()[-1])
    full = found["full"]
    for result in found.values():
        result["of_full"] = round(result["measured"] / full["measured"], 4)
        result["of_full_expected"] = round(result["expected"] / full["expected"], 4)
        result["expected_off"] = round(result["expected"] / result["measured"] - 1, 4)
    print(json.dumps({"model": args.model, "tokens": args.rows * args.length, **found}, indent=1))


if __name__ == "__main__":
    main()
