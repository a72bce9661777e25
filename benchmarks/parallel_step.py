"""A training step of two ranks, one thread each, against one process on two threads.

    python benchmarks/parallel_step.py [--layout ep] [--model peers] [--micro-batches 2] ...

`--layout`: EP × FSDP, or two pipeline stages, or four, two on a rank. `--model`: the training shape
of the measured peers (219M parameters, 64 experts), or ling-nano. bfloat16, random weights and
tokens; a step has `--micro-batches` of `--tokens` tokens. Both sides run in turn. Prints one JSON
line a run (median step in seconds, CPU seconds of all processes, bytes of weights and optimizer
state on a rank, bytes sent to experts) and the paired ratios of tokens a second and a CPU second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from ling.checkpoint.dcp.local import local_part
from ling.config.parallel import ParallelConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.data.indexed import IndexedWriter
from ling.train.loop import Loop
from ling.train.parallel import copies, experts
from ling.train.parallel.group import join, leave
from ling.train.setup import setup

ROW = 1024
SHAPE = {
    "vocab_size": 32768,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 64,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 256,
    "num_nextn_predict_layers": 0,
}


LAYOUTS = {
    "ep": ParallelConfig(dp_shard=2, ep=2),
    "pp": ParallelConfig(pp=2),
    "interleaved": ParallelConfig(pp=2, pp_stages_per_rank=2),
}


def recipe(prefix: Path, ranks: int, steps: int, args: argparse.Namespace) -> PretrainConfig:
    """The same micro-batches, of one process or of two ranks."""
    rows = args.tokens // ROW
    return PretrainConfig(
        model="ling-nano",
        model_overrides=SHAPE if args.model == "peers" else {},
        data=DataConfig(prefix=[str(prefix)], seq_length=ROW),
        train=TrainConfig(
            steps=steps,
            global_batch_size=args.micro_batches * rows,
            micro_batch_size=rows,
            threads=2 // ranks,
            group_timeout_s=300,
        ),
        parallel=LAYOUTS[args.layout] if ranks > 1 else ParallelConfig(),
    )


def train(folder: Path, args: argparse.Namespace) -> None:
    """One side: a process alone, or a rank that torchrun started."""
    steps = args.steps
    torch.set_num_threads(1)
    world = join(torch.device("cpu"), 300)
    made = recipe(folder / "text", world.size, steps + 1, args)
    loop = Loop(setup(made, folder / f"run-{world.size}", lambda text: None, world=world))
    torch.set_num_threads(2 // world.size)
    sent = counted_bytes()
    loop._step()  # the first compiles
    sent.clear()
    walls, start = [], time.process_time()
    for _ in range(steps):
        begin = time.perf_counter()
        loop._step()
        walls.append(time.perf_counter() - begin)
    cpu = sum(world.gather((time.process_time() - start) / steps))
    model, optimizer = loop.state.model, loop.state.optimizer
    moments = (t for s in optimizer.state.values() for t in s.values())
    if world.leads:
        found = {
            "ranks": world.size,
            "step_s": statistics.median(walls),
            "cpu_s": cpu,
            "weight_bytes": sum(local_part(p).nbytes for p in model.parameters()),
            "optimizer_bytes": sum(local_part(t).nbytes for t in moments),
            "sent_bytes": sum(sent) // steps,
        }
        print(json.dumps(found), flush=True)
    leave()


def counted_bytes() -> list[int]:
    """Grows by what each exchange of experts' rows sends from now on."""
    sent: list[int] = []
    exchanged = experts.exchanged

    def counting(x, send, receive, group):
        own = dist.get_rank(group)
        sent.append((sum(send) - send[own]) * x[0:1].numel() * x.element_size() if sum(send) else 0)
        return exchanged(x, send, receive, group)

    copies.exchanged = experts.exchanged = counting
    return sent


def measured(folder: Path, ranks: int) -> dict[str, float]:
    """Start one side and read its line."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    options = ["--side", str(folder), *sys.argv[1:]]
    command = [sys.executable, *(launch if ranks > 1 else []), __file__, *options]
    # OpenMP takes its number of threads from here; a rank of two has one.
    env = {**os.environ, "OMP_NUM_THREADS": str(2 // ranks)}
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    """Both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--layout", default="ep", choices=LAYOUTS)
    parser.add_argument("--model", default="peers", choices=("peers", "nano"))
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        train(args.side, args)
        return
    with tempfile.TemporaryDirectory() as name:
        with IndexedWriter(Path(name) / "text", np.uint16) as writer:
            writer.add_document(np.random.RandomState(0).randint(0, 4000, 200_000).tolist())
        pairs = [[measured(Path(name), ranks) for ranks in (1, 2)] for _ in range(args.rounds)]
    wall, cpu = (
        statistics.median(one[key] / two[key] for one, two in pairs) for key in ("step_s", "cpu_s")
    )
    print(json.dumps({"ratio": round(wall, 3), "cpu_ratio": round(cpu, 3)}))


if __name__ == "__main__":
    main()
