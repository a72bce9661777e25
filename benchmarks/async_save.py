"""What a checkpoint costs a run: written at once, and in the background while steps go on.

    python benchmarks/async_save.py FOLDER [--rounds 2] [--threads 2]

FOLDER gets one checkpoint at a time (2.6 GB) and loses it again. The network is the training shape
of `docs/concepts/training-speed.md`: 219M parameters, 4 rows of 1,024 tokens, bfloat16. A round is:
three steps; a save at once; three steps; a save in the background and three steps; three steps.
The cost of the background save is its call and what the three steps after it take longer than the
mean of the steps before and after. The first round, in which memory is new, is told apart. Prints
one JSON line a round and one of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# As `ling` sets it: threads that wait for work would otherwise keep their core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from ling.config.recipe import OptimConfig, TrainConfig
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.batches import Batch
from ling.train.forward import LingForTraining
from ling.train.objectives.pretrain import Pretraining
from ling.train.optim import build_optimizer
from ling.train.saving import Saver
from ling.train.state import TrainState
from ling.train.step import train_step

ROWS, LENGTH, AFTER = 4, 1024, 3
SHAPE = {
    "hidden_size": 512, "num_hidden_layers": 8, "first_k_dense_replace": 1, "num_experts": 64,
    "num_experts_per_tok": 4, "moe_intermediate_size": 256, "num_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2,
    "head_dim": 64, "vocab_size": 32000, "intermediate_size": 1536, "num_nextn_predict_layers": 0,
    "n_group": 1, "topk_group": 1,
}  # fmt: skip


class Bench:
    """A training whose steps and saves are timed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = from_config(preset("ling-nano").replace(**SHAPE), seed=0)
        model.compute_dtype = torch.bfloat16
        self.train = TrainConfig(global_batch_size=ROWS, micro_batch_size=ROWS)
        self.optim = OptimConfig(schedule="constant")
        optimizer = build_optimizer(model, self.optim)
        self.state = TrainState(LingForTraining(model), optimizer, torch.device("cpu"))
        self.parameters = sum(p.numel() for p in model.parameters())
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, model.config.vocab_size, (ROWS, LENGTH + 1), generator=generator)
        self.batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(ROWS, LENGTH))
        self.savers = {
            name: Saver(folder, self.state, 1, background=name == "async")
            for name in ("sync", "async")
        }

    def step(self) -> None:
        objective = Pretraining(self.train.mtp_loss_weight, self.train.z_loss_coef)
        train_step(self.state, objective, [self.batch], self.train, self.optim)

    def steps(self, each: Callable[[], None] = lambda: None) -> float:
        """Seconds of some steps."""

        def some() -> None:
            for _ in range(AFTER):
                self.step()
                each()

        return timed(some)

    def clear(self) -> None:
        shutil.rmtree(self.folder / "checkpoints")
        os.sync()

    def round(self) -> dict[str, Any]:
        before = self.steps()
        sync = timed(self.savers["sync"].save)
        self.clear()
        middle = self.steps()
        saver, cpu = self.savers["async"], time.process_time()
        call = timed(saver.save)
        during = self.steps(saver.advance)
        wait = timed(saver.finish)
        cpu = time.process_time() - cpu
        self.clear()
        after = self.steps()
        plain = (middle + after) / 2
        excess = during - plain
        return {
            "sync_s": sync, "call_s": call, "excess_s": excess, "wait_s": wait,
            "three_steps_s": [before, middle, during, after], "cpu_with_save_s": cpu,
            "cost": (call + excess) / sync,
        }  # fmt: skip


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rounded(row: dict[str, Any]) -> str:
    return json.dumps(json.loads(json.dumps(row), parse_float=lambda x: round(float(x), 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args.folder)
    bench.step()
    rows = []
    for _ in range(args.rounds + 1):
        rows.append(bench.round())
        print(rounded(rows[-1]), flush=True)
    keys = ("sync_s", "call_s", "excess_s", "wait_s", "cost")
    medians = {key: statistics.median(row[key] for row in rows[1:]) for key in keys}
    print(rounded({"parameters": bench.parameters, **medians}))


if __name__ == "__main__":
    main()
