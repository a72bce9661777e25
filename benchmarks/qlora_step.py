"""Steps of QLoRA over a packed folder: seconds, memory and losses, on one batch.

    ling synth ling-mini-2.0 ~/.cache/ling/ling-mini-2.0-int4 --to int4     # random weights, 9 GB
    OMP_NUM_THREADS=2 python benchmarks/qlora_step.py ~/.cache/ling/ling-mini-2.0-int4

One row of random tokens, all of them trained, adapters of rank 16 and on routed experts 4,
recomputation of every layer. Prints one JSON object. `peak_gb` is the largest resident memory that
was seen: `anonymous_gb`, and with it the pages of the folder that were mapped, which the system may
drop and other processes share.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ling.checkpoint.open import config_at
from ling.config.parallel import ParallelConfig
from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig, SFTOptimConfig, SFTTrainConfig
from ling.ops import native
from ling.train.batches import Batch
from ling.train.network import build_network
from ling.train.objectives.sft import FineTuning
from ling.train.optim import build_optimizer
from ling.train.parallel.apply import parallelise
from ling.train.state import TrainState
from ling.train.step import train_step

GB = 1e9


class Memory(threading.Thread):
    """The largest resident memory, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = self.all = 0.0

    def run(self) -> None:
        while True:
            self.look()
            time.sleep(0.1)

    def look(self) -> None:
        """Once."""
        lines = Path("/proc/self/status").read_text().splitlines()
        kib = {k: float(v.split()[0]) for k, _, v in (x.partition(":") for x in lines) if "kB" in v}
        anonymous = kib["RssAnon"] * 1024
        self.anonymous = max(self.anonymous, anonymous)
        self.all = max(self.all, anonymous + (kib["RssFile"] + kib["RssShmem"]) * 1024)


def made(args: argparse.Namespace) -> tuple[SFTConfig, TrainState]:
    """The recipe, and what its first step begins from."""
    recipe = SFTConfig(
        model=str(args.folder),
        method="qlora",
        data=ChatDataConfig(files=["-"], seq_length=args.tokens),
        train=SFTTrainConfig(steps=args.steps, global_batch_size=1),
        optim=SFTOptimConfig(lr=args.lr, schedule="constant", warmup_steps=0),
        lora=LoRAConfig(rank=16, expert_rank=args.expert_rank),
        parallel=ParallelConfig(recompute="full"),
    )
    cpu = torch.device("cpu")
    network = build_network(
        recipe, config_at(args.folder), cpu, lambda n: parallelise(recipe, None, n)
    )
    return recipe, TrainState(network, build_optimizer(network.ling, recipe.optim), cpu)


def batch(vocab_size: int, tokens: int) -> Batch:
    """Random tokens that predict each other."""
    ids = torch.randint(vocab_size, (1, tokens + 1), generator=torch.Generator().manual_seed(0))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(1, tokens))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--expert-rank", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--profile", type=Path, help="write a table of torch's operations there")
    args = parser.parse_args()
    memory = Memory()
    memory.start()
    start = time.perf_counter()
    recipe, state = made(args)
    report: dict[str, Any] = {
        "isa": native.isa(),
        "threads": torch.get_num_threads(),
        "tokens": args.tokens,
        "trained_parameters": sum(p.numel() for p in state.model.parameters() if p.requires_grad),
        "load_s": round(time.perf_counter() - start, 1),
        "load_average": os.getloadavg()[0],
        "steps": [],
    }
    rows = batch(state.model.config.vocab_size, args.tokens)
    for i in range(args.steps):
        start, before = time.perf_counter(), time.process_time()
        with profiled(args.profile if i == args.steps - 1 else None):
            found = train_step(state, FineTuning(0.0, None), [rows], recipe.train, recipe.optim)
        took = {
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_s": round(time.process_time() - before, 1),
        }
        report["steps"].append({"loss": round(found.losses["loss"], 4), **took})
        memory.look()
        print(json.dumps(report["steps"][-1]), file=sys.stderr)
    memory.look()
    report["peak_gb"] = round(memory.all / GB, 2)
    report["anonymous_gb"] = round(memory.anonymous / GB, 2)
    print(json.dumps(report))


@contextlib.contextmanager
def profiled(path: Path | None) -> Iterator[None]:
    """A block under torch's profiler, if it is given a file for its table."""
    if path is None:
        yield
        return
    with torch.profiler.profile() as profile:
        yield
    path.write_text(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))


if __name__ == "__main__":
    main()
