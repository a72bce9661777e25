"""Decode and prefill with a KV cache in bf16, int8 and int4, in turn, over the same weights.

    python benchmarks/kv_cache.py FOLDER [--contexts 4096 16384] [--pairs 20]

FOLDER is a model in int4 or int8 (`ling synth ling-mini-2.0 FOLDER`). The caches hold noise instead
of a prompt. Prints one JSON line for each context and kind: a decode step of one token, or 256
tokens of prompt; medians by type, and ratios of neighbours (bf16's time over each other's).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from typing import Any

import torch

from ling.config.engine import KV_CACHE_DTYPES, EngineConfig
from ling.infer.native_runner import NativeRunner
from ling.infer.open import open_runner
from ling.infer.pages import PAGE, Segment, pages_for
from ling.model.size import KV_BITS

PREFILL = 256


class Runner:
    """A model with noise in its cache."""

    def __init__(self, folder: str, kv: str, positions: int) -> None:
        runner = open_runner(folder, EngineConfig(kv_cache_dtype=kv))
        assert isinstance(runner, NativeRunner)
        self.runner, self.pages = runner, list(range(pages_for(positions)))
        runner.allocate(len(self.pages))
        if kv == "bf16":
            runner.kv.view(torch.bfloat16).normal_()
        else:
            codes = PAGE * runner.config.head_dim * KV_BITS[kv] // 8
            head = runner.kv.view(-1, codes + 4 * PAGE)  # keys or values of one in a page
            head.random_(1, 256)
            head[:, codes:].view(torch.float32).fill_(0.01)
        self.random = random.Random(0)

    def step(self, context: int, rows: int) -> tuple[float, float]:
        """Seconds of a forward pass, and of its attention."""
        vocab = self.runner.config.vocab_size
        tokens = [self.random.randrange(vocab) for _ in range(rows)]
        self.runner.profile()
        start = time.perf_counter()
        hidden = self.runner.forward(tokens, [Segment(self.pages, context, 0, rows)])
        self.runner.logits(hidden[-1:])
        return time.perf_counter() - start, self.runner.profile()["attention"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--pairs", type=int, default=20)
    args = parser.parse_args()
    room = max(args.contexts) + PREFILL
    runners = [Runner(args.folder, kv, room) for kv in KV_CACHE_DTYPES]
    for context in args.contexts:
        for kind, rows in (("decode", 1), ("prefill", PREFILL)):
            times: list[list[tuple[float, float]]] = [[] for _ in runners]
            order = range(len(runners))
            for k in range((args.pairs if rows == 1 else max(args.pairs // 4, 2)) + 1):
                for i in order if k % 2 else reversed(order):
                    times[i].append(runners[i].step(context, rows))
            report: dict[str, Any] = {"context": context, "kind": kind}
            for part, name in enumerate(("step", "attention")):
                of = {kv: [t[part] for t in times[i][1:]] for i, kv in enumerate(KV_CACHE_DTYPES)}
                report[f"{name}_ms"] = {
                    kv: round(1e3 * statistics.median(t), 3) for kv, t in of.items()
                }
                report[f"{name}_ratio"] = {
                    kv: round(
                        statistics.median(a / b for a, b in zip(of["bf16"], t, strict=True)), 2
                    )
                    for kv, t in of.items()
                }
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
