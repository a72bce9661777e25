"""A training step in FP8 against one in bf16, in CPU seconds of one process.

    python benchmarks/fp8_step.py [--model nano|peers] [--pairs 10] [--threads 1]

Random weights and tokens, 4,096 tokens a step; the two take steps in turn (order a b b a). `peers`
is the shape of the measured peers (219M parameters, 64 experts). Prints one JSON object: median CPU
seconds of each and the median ratio with its 95% interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from parallel_step import SHAPE

from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.data.indexed import IndexedWriter
from ling.eval.peers import interval
from ling.train.loop import Loop
from ling.train.setup import setup

TOKENS = 4096


def loop(folder: Path, fp8: bool, args: argparse.Namespace) -> Loop:
    """One side, before its first step."""
    length = 1024 if args.model == "peers" else 512
    rows = TOKENS // length
    recipe = PretrainConfig(
        model="ling-nano",
        model_overrides=SHAPE if args.model == "peers" else {},
        data=DataConfig(prefix=[str(folder / "text")], seq_length=length),
        train=TrainConfig(
            steps=2 * args.pairs + 2,
            global_batch_size=rows,
            micro_batch_size=rows,
            threads=args.threads,
            fp8="blockwise" if fp8 else "off",
        ),
    )
    return Loop(setup(recipe, folder / f"run-{fp8}", lambda text: None))


def seconds(side: Loop) -> float:
    """CPU seconds of one step."""
    start = time.process_time()
    side._step()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=["nano", "peers"], default="nano")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name), np.random.default_rng(0)
        with IndexedWriter(folder / "text", np.uint16) as writer:
            for _ in range(64):
                writer.add_document(numbers.integers(0, 4096, 2000))
        sides = {fp8: loop(folder, fp8, args) for fp8 in (False, True)}
        for side in sides.values():
            side._step()  # the first compiles
        found: dict[bool, list[float]] = {False: [], True: []}
        for i in range(args.pairs):
            for fp8 in (False, True) if i % 2 else (True, False):
                found[fp8].append(seconds(sides[fp8]))
    ratios = [b / a for a, b in zip(found[False], found[True], strict=True)]
    medians = {"bf16_cpu_s": found[False], "fp8_cpu_s": found[True], "ratio": ratios}
    report = {key: round(statistics.median(values), 3) for key, values in medians.items()}
    print(json.dumps({"model": args.model, **report, "ratio_95": interval(ratios)}))


if __name__ == "__main__":
    main()
