"""What drafts bring on a trained model, at the acceptance that it really has: two engines, with and
without them, continue each prompt in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.engine import EngineConfig
from ..data.indexed import IndexedDataset
from ..errors import RunError, UsageError
from ..infer.engine import Engine
from ..infer.native_runner import NativeRunner
from ..infer.open import open_runner
from ..infer.request import SamplingParams
from .peers import interval
from .roofline import Recorder


def beginnings(prefix: str, count: int, length: int) -> Iterator[list[int]]:
    """The first `length` ids of held-out documents that are long enough, `count` at most."""
    data = IndexedDataset(prefix)
    for i in range(len(data)):
        document = data.get(i).tolist()
        if len(document) >= length and count > 0:
            count -= 1
            yield document[:length]


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """How is drafted and continued."""

    speculative: str = "mtp"
    num_drafts: int | None = None
    """Every step drafts this many; None: what pays, as when it serves."""
    format: str | None = None
    temperature: float = 0.0
    tokens: int = 128
    ignore_eos: bool = True
    cpu_time: bool = False
    """With one thread, leave out what other programs take."""

    @property
    def engine_options(self) -> dict[str, Any]:
        """Of the engine that drafts."""
        every = {} if self.num_drafts is None else {"num_drafts": self.num_drafts}
        return {"speculative": self.speculative, **every}

    def params(self, seed: int) -> SamplingParams:
        """Of one request."""
        return SamplingParams(
            temperature=self.temperature,
            max_tokens=self.tokens,
            seed=seed,
            ignore_eos=self.ignore_eos,
        )


class Side:
    """One engine, and what it did."""

    def __init__(
        self,
        folder: Path,
        fmt: str | None,
        drafts: dict[str, Any],
        ends: Sequence[int],
        clock: Callable[[], float],
    ) -> None:
        self.clock = clock
        runner = open_runner(folder, EngineConfig(format=fmt))
        if not isinstance(runner, NativeRunner):
            raise UsageError("what drafts bring is measured with the kernel library")
        self.runner = runner
        config = EngineConfig(num_pages=64, **drafts)
        self.engine = Engine(
            runner, config, adaptive="num_drafts" not in drafts, stop_token_ids=ends
        )
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


def draft_gain(
    folder: Path, prompts: Sequence[list[int]], drafts: Drafts, ends: Sequence[int] = ()
) -> dict[str, Any]:
    """Continue each prompt with drafts and without, in turn; both give the same tokens.

    Returns the median ratio of their speeds with its 95% interval, the acceptance, tokens a step,
    what a step costs beside a plain one, and how many different experts a layer reads. `ends` stop
    a continuation unless `drafts.ignore_eos`.
    """
    clock = time.process_time if drafts.cpu_time else time.perf_counter
    kinds: dict[str, dict[str, Any]] = {"off": {}, "on": drafts.engine_options}
    sides = {name: Side(folder, drafts.format, kind, ends, clock) for name, kind in kinds.items()}
    ratios = _ratios(sides, prompts, drafts)
    acceptance = sides["on"].engine.stats.acceptance
    for i, prompt in enumerate(prompts):  # counting experts takes time that the policy would see
        for side in sides.values():
            side.run(prompt, drafts.params(i), timed=False)
    per_step = {n: s.seconds / s.steps for n, s in sides.items()}
    experts = {n: s.recorder.mean().experts for n, s in sides.items()}
    chosen = sides["off"].runner.config.num_experts_per_tok
    return {
        "format": sides["off"].runner.format_name,
        "speculative": drafts.speculative,
        "num_drafts": drafts.num_drafts or "what pays",
        "temperature": drafts.temperature,
        "prompts": len(ratios),
        "ratio": statistics.median(ratios),
        "interval": interval(ratios),
        "acceptance": acceptance,
        "tokens_per_step": sides["on"].tokens / sides["on"].steps,
        "seconds_per_step": per_step,
        "step_cost": per_step["on"] / per_step["off"],
        "experts_per_layer": experts,
        # Of the second token's experts, those that the first one reads anyway.
        "overlap": 1 - (experts["on"] - chosen) / chosen if drafts.num_drafts == 1 else None,
    }


def _ratios(sides: dict[str, Side], prompts: Sequence[list[int]], drafts: Drafts) -> list[float]:
    """Seconds without drafts over seconds with them, of each prompt that has a second step."""
    ratios = []
    for i, prompt in enumerate(prompts):
        seconds, outputs = {}, {}
        for name in ("off", "on") if i % 2 else ("on", "off"):
            side, before = sides[name], sides[name].seconds
            outputs[name] = side.run(prompt, drafts.params(i))
            seconds[name] = side.seconds - before
        if outputs["off"] != outputs["on"]:
            raise RunError(
                f"prompt {i}: with drafts the model continued otherwise than without; drafts must "
                "change no token, so this is an error of the engine: please report it"
            )
        if len(outputs["off"]) > 1:
            ratios.append(seconds["off"] / seconds["on"])
    if not ratios:
        raise UsageError("every continuation ended at its first token: nothing to measure")
    return ratios
