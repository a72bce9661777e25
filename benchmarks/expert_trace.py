"""What it costs to return the experts of each token: the same requests with and without, in turn.

    python benchmarks/expert_trace.py [MODEL] [--batches 1 8 32] [--tokens 64] [--pairs 20]

MODEL is a folder or a shape with random weights in int4, by default ling-nano: a small model has
short steps, so it shows the most. Prints one JSON line for each batch of decoding requests, and one
for a prompt of 512 tokens: CPU milliseconds of a step without, and the ratio of neighbours (with
over without) with quartiles. Wall clock on a busy machine would measure other programs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

from ling.config.engine import EngineConfig
from ling.infer.engine import Engine
from ling.infer.open import open_runner, runner_for
from ling.infer.request import SamplingParams
from ling.model.ling import from_config
from ling.presets import preset

PROMPT = 512


def engine(model: str) -> Engine:
    """An engine on a folder, or on random weights of a shape."""
    if Path(model).exists():
        return Engine(open_runner(model))
    config = EngineConfig(format="int4")
    return Engine(runner_for(from_config(preset(model), seed=0), config), config)


def seconds(e: Engine, lengths: list[int], tokens: int, asks: bool) -> float:
    """CPU seconds of all steps: of the prompts, or without them for more than one token."""
    params = SamplingParams(
        max_tokens=tokens, temperature=0, ignore_eos=True, return_routed_experts=asks
    )
    rng = random.Random(0)
    vocab = e.runner.config.vocab_size
    # Every prompt is new to the prefix cache, which a traced request would not use.
    salt = str(time.perf_counter_ns())
    requests = [
        e.add([rng.randrange(vocab) for _ in range(n)], params, cache_salt=salt) for n in lengths
    ]
    while tokens > 1 and any(not r.output for r in requests):
        e.step()
    start = time.process_time()
    while e.has_work:
        e.step()
    return time.process_time() - start


def compare(e: Engine, lengths: list[int], tokens: int, pairs: int) -> tuple[float, list[float]]:
    """CPU milliseconds of a step without, and quartiles of the ratio."""
    plain, ratios = [], []
    for pair in range(pairs + 1):
        order = (False, True) if pair % 2 else (True, False)
        spent = {asks: seconds(e, lengths, tokens, asks) for asks in order}
        if pair:  # the first warms up
            plain.append(spent[False])
            ratios.append(spent[True] / spent[False])
    return 1e3 * statistics.median(plain) / max(tokens - 1, 1), statistics.quantiles(ratios, n=4)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="ling-nano")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=20)
    args = parser.parse_args()
    e = engine(args.model)
    for batch in args.batches:
        ms, (low, middle, high) = compare(e, [16] * batch, args.tokens, args.pairs)
        row = {"decode": batch, "step_cpu_ms": round(ms, 3)}
        print(json.dumps({**row, "ratio": [round(x, 4) for x in (low, middle, high)]}), flush=True)
    ms, (low, middle, high) = compare(e, [PROMPT], 1, args.pairs)
    row = {"prefill": PROMPT, "step_cpu_ms": round(ms, 3)}
    print(json.dumps({**row, "ratio": [round(x, 4) for x in (low, middle, high)]}), flush=True)


if __name__ == "__main__":
    main()
