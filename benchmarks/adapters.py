"""CPU time of steps with and without adapters, in turns in one process.

python benchmarks/adapters.py FOLDER [--ranks 16,16 16,4] [--steps 40]

FOLDER is any checkpoint that `ling serve` takes; `--ranks R,E` makes a random adapter of rank R,
and E on the routed experts. Printed are medians in milliseconds and the median ratio to the same
step without adapters, for decode steps of 1, 8 and 32 requests and a prompt of 512 tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from ling.config.model import ModelConfig
from ling.infer.open import open_runner
from ling.infer.pages import PAGE, Segment
from ling.infer.runner import Runner
from ling.model.adapter import Adapter, LowRank, adapter_targets

CASES = ((1, 1), (8, 1), (32, 1), (1, 512))
CONTEXT = 100
AdapterOf = Callable[[int], int]
"""The number of a request's adapter."""


def random_adapter(cfg: ModelConfig, rank: int, of_experts: int) -> Adapter:
    """Small random matrices beside all that may have some."""
    matrices = {}
    for name, target in adapter_targets(cfg).items():
        if r := of_experts if target.kind == "experts" else rank:
            stack = (target.experts,) if target.experts else ()
            a, b = (
                torch.randn(*stack, *shape, dtype=torch.bfloat16) * 0.01
                for shape in ((r, target.in_features), (target.out_features, r))
            )
            matrices[name] = LowRank(a, b, 2.0)
    return Adapter(matrices)


def segments(requests: int, rows: int, adapter: AdapterOf) -> list[Segment]:
    """Rows of requests: a prompt, or a token each behind a context."""
    first = 0 if rows > 1 else CONTEXT
    pages = -(-(first + rows) // PAGE)
    return [
        Segment([*range(i * pages, (i + 1) * pages)], first, i * rows, (i + 1) * rows, adapter(i))
        for i in range(requests)
    ]


def step_seconds(runner: Runner, requests: int, rows: int, adapter: AdapterOf) -> float:
    """CPU time of a step with random tokens, the choice of tokens left out."""
    tokens = torch.randint(runner.config.vocab_size, (requests * rows,)).tolist()
    where, begin = segments(requests, rows, adapter), time.process_time()
    hidden = runner.forward(tokens, where)
    runner.logits(hidden if rows == 1 else hidden[-1:])
    return time.process_time() - begin


def measure(runner: Runner, names: list[str], steps: int) -> None:
    """Print a line for each case."""
    kinds: dict[str, AdapterOf] = {"none": lambda i: 0}
    kinds |= {name: lambda i, k=k: k for k, name in enumerate(names, 1)}  # type: ignore[misc]
    kinds["in turn"] = lambda i: i % (len(names) + 1)
    for requests, rows in CASES:
        taken: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(2 + (steps if rows == 1 else max(3, steps // 8))):
            for kind, adapter in kinds.items():
                taken[kind].append(step_seconds(runner, requests, rows, adapter))
        plain = taken["none"][2:]
        parts = []
        for kind, seconds in taken.items():
            ratio = median(s / p for s, p in zip(seconds[2:], plain, strict=True))
            parts.append(f"{kind}: {1e3 * median(seconds[2:]):.2f} ms, {ratio:.3f} x")
        print(f"{requests} x {rows} rows:", " | ".join(parts), flush=True)


def main() -> None:
    """Open, adapt, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--ranks", nargs="*", default=["16,16", "16,4"])
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    torch.manual_seed(0)
    runner = open_runner(given.folder)
    ranks = {text: tuple(map(int, text.split(","))) for text in given.ranks}
    runner.use_adapters({k: random_adapter(runner.config, *r) for k, r in ranks.items()})
    runner.allocate(max(n * -(-(CONTEXT + rows) // PAGE) for n, rows in CASES))
    measure(runner, [*ranks], given.steps)


if __name__ == "__main__":
    main()
