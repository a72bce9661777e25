"""What drafts bring on a trained model, at the acceptance that it really has.

    python benchmarks/mtp_gain.py MODEL_FOLDER PREFIX [--speculative mtp] [--num-drafts N]
        [--format int4] [--temperature 0] [--prompts 12] [--prompt-tokens 64] [--tokens 128]
        [--cpu-time]

PREFIX is a Megatron .bin/.idx of held-out tokens, which give the prompts. Two engines, with and
without drafts, continue each prompt in turn; both give the same tokens. With `--num-drafts` every
step drafts this many; without it, the engine drafts what pays, as it does when it serves.
`--cpu-time` (with one thread) leaves out what other programs take. Prints one
JSON object: the ratio of their speeds with its 95% interval, acceptance, tokens a step, what a
step costs beside a plain one, and how many different experts a layer reads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ling.config.engine import EngineConfig
from ling.data.indexed import IndexedDataset
from ling.eval.peers import interval
from ling.eval.roofline import Recorder
from ling.infer.engine import Engine
from ling.infer.native_runner import NativeRunner
from ling.infer.open import open_runner
from ling.infer.request import SamplingParams


def prompts(prefix: str, count: int, length: int) -> Iterator[list[int]]:
    """Beginnings of held-out documents that are long enough."""
    data = IndexedDataset(prefix)
    for i in range(len(data)):
        document = data.get(i).tolist()
        if len(document) >= length and count > 0:
            count -= 1
            yield document[:length]


class Side:
    """One engine, and what it did."""

    def __init__(
        self, folder: Path, fmt: str | None, drafts: dict[str, Any], clock: Callable[[], float]
    ) -> None:
        self.clock = clock
        runner = open_runner(folder, EngineConfig(format=fmt))
        if not isinstance(runner, NativeRunner):
            raise SystemExit("the kernel library is needed")
        self.runner = runner
        config = EngineConfig(num_pages=64, **drafts)
        self.engine = Engine(runner, config, adaptive="num_drafts" not in drafts)
        self.recorder = Recorder(runner)
        self.steps, self.tokens, self.seconds = 0, 0, 0.0

    def run(self, prompt: list[int], params: SamplingParams, *, timed: bool = True) -> list[int]:
        """Continue a prompt; the first step, which reads it, is not counted."""
        request = self.engine.add(prompt, params)
        self.engine.runner = self.runner
        self.engine.step()
        self.engine.runner = self.runner if timed else self.recorder
        start = self.clock()
        while self.engine.has_work:
            self.engine.step()
            self.steps += timed
        if timed:
            self.seconds += self.clock() - start
            self.tokens += len(request.output) - 1
        return request.output


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prefix")
    parser.add_argument("--speculative", default="mtp")
    parser.add_argument("--num-drafts", type=int, default=None)
    parser.add_argument("--format", default=None)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    drafts = {"speculative": args.speculative}
    if args.num_drafts is not None:
        drafts["num_drafts"] = args.num_drafts
    kinds: dict[str, dict[str, Any]] = {"off": {}, "on": drafts}
    clock = time.process_time if args.cpu_time else time.perf_counter
    sides = {name: Side(args.model, args.format, kind, clock) for name, kind in kinds.items()}
    ratios, texts = [], list(prompts(args.prefix, args.prompts, args.prompt_tokens))

    def params(i: int) -> SamplingParams:
        return SamplingParams(
            temperature=args.temperature, max_tokens=args.tokens, seed=i, ignore_eos=True
        )

    for i, prompt in enumerate(texts):
        seconds, outputs = {}, {}
        for name in ("off", "on") if i % 2 else ("on", "off"):
            side, before = sides[name], sides[name].seconds
            outputs[name] = side.run(prompt, params(i))
            seconds[name] = side.seconds - before
        assert outputs["off"] == outputs["on"]
        ratios.append(seconds["off"] / seconds["on"])
    acceptance = sides["on"].engine.stats.acceptance
    for i, prompt in enumerate(texts):  # counting experts takes time that the policy would see
        for side in sides.values():
            side.run(prompt, params(i), timed=False)
    per_step = {n: s.seconds / s.steps for n, s in sides.items()}
    experts = {n: s.recorder.mean().experts for n, s in sides.items()}
    chosen = sides["off"].runner.config.num_experts_per_tok
    report = {
        "format": sides["off"].runner.format_name,
        "speculative": args.speculative,
        "num_drafts": args.num_drafts or "what pays",
        "temperature": args.temperature,
        "prompts": len(ratios),
        "ratio": statistics.median(ratios),
        "interval": interval(ratios),
        "acceptance": acceptance,
        "tokens_per_step": sides["on"].tokens / sides["on"].steps,
        "seconds_per_step": per_step,
        "step_cost": per_step["on"] / per_step["off"],
        "experts_per_layer": experts,
        # Of the second token's experts, those that the first one reads anyway.
        "overlap": 1 - (experts["on"] - chosen) / chosen if args.num_drafts == 1 else None,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
