"""What MTP drafts bring on a trained model, at the acceptance that it really has.

    python benchmarks/mtp_gain.py MODEL_FOLDER PREFIX [--format int4] [--temperature 0]
        [--prompts 12] [--tokens 128]

PREFIX is a Megatron .bin/.idx of held-out tokens, which give the prompts. Two engines, with and
without drafts, continue each prompt in turn; both give the same tokens. Prints one JSON object: the
ratio of their speeds with its 95% interval, acceptance, what a drafting step costs beside a plain
one, and how many different experts a layer reads for one token and for two neighbours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from ling.config.engine import EngineConfig
from ling.data.indexed import IndexedDataset
from ling.eval.peers import interval
from ling.eval.roofline import Recorder
from ling.infer.engine import Engine
from ling.infer.native_runner import NativeRunner
from ling.infer.open import open_runner
from ling.infer.request import SamplingParams

PROMPT = 64


def prompts(prefix: str, count: int) -> Iterator[list[int]]:
    """Beginnings of held-out documents that are long enough."""
    data = IndexedDataset(prefix)
    for i in range(len(data)):
        document = data.get(i).tolist()
        if len(document) >= PROMPT and count > 0:
            count -= 1
            yield document[:PROMPT]


class Side:
    """One engine, and what it did."""

    def __init__(self, folder: Path, fmt: str | None, speculative: str) -> None:
        runner = open_runner(folder, EngineConfig(format=fmt))
        if not isinstance(runner, NativeRunner):
            raise SystemExit("the kernel library is needed")
        self.runner = runner
        config = EngineConfig(num_pages=64, speculative=speculative)
        self.engine = Engine(runner, config, adaptive=False)
        self.recorder = Recorder(runner)
        self.steps, self.seconds = 0, 0.0

    def run(self, prompt: list[int], params: SamplingParams, *, timed: bool = True) -> list[int]:
        """Continue a prompt; the first step, which reads it, is not counted."""
        request = self.engine.add(prompt, params)
        self.engine.runner = self.runner
        self.engine.step()
        self.engine.runner = self.runner if timed else self.recorder
        start = time.perf_counter()
        while self.engine.has_work:
            self.engine.step()
            self.steps += timed
        if timed:
            self.seconds += time.perf_counter() - start
        return request.output


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prefix")
    parser.add_argument("--format", default=None)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()
    sides = {s: Side(args.model, args.format, s) for s in ("off", "mtp")}
    ratios = []
    for i, prompt in enumerate(prompts(args.prefix, args.prompts)):
        params = SamplingParams(
            temperature=args.temperature, max_tokens=args.tokens, seed=i, ignore_eos=True
        )
        seconds, outputs = {}, {}
        for name in ("off", "mtp") if i % 2 else ("mtp", "off"):
            side, before = sides[name], sides[name].seconds
            outputs[name] = side.run(prompt, params)
            seconds[name] = side.seconds - before
        assert outputs["off"] == outputs["mtp"]
        ratios.append(seconds["off"] / seconds["mtp"])
        for side in sides.values():
            side.run(prompt, params, timed=False)
    per_step = {n: s.seconds / s.steps for n, s in sides.items()}
    experts = {n: s.recorder.mean().experts for n, s in sides.items()}
    chosen = sides["off"].runner.config.num_experts_per_tok
    report = {
        "format": sides["off"].runner.format_name,
        "temperature": args.temperature,
        "prompts": len(ratios),
        "ratio": statistics.median(ratios),
        "interval": interval(ratios),
        "acceptance": sides["mtp"].engine.stats.acceptance,
        "seconds_per_step": per_step,
        "step_cost": per_step["mtp"] / per_step["off"],
        "experts_per_layer": experts,
        # Of the second token's experts, those that the first one reads anyway.
        "overlap": 1 - (experts["mtp"] - chosen) / chosen,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
