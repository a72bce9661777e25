"""What `ling bench` measures, and our engine as the thing that is measured."""

from __future__ import annotations

import dataclasses
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.open import config_at
from ..config.engine import DEFAULTS, EngineConfig
from ..config.long_context import stretched, trained_length
from ..errors import UsageError
from ..infer.engine import Engine
from ..infer.native_runner import NativeRunner
from ..infer.open import open_runner
from ..infer.request import Guess, Request, SamplingParams
from .noise_cache import cache_noise
from .roofline import Recorder, Step

MTP_COIN_SEED = 7


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured: `tokens` are generated (or, for prefill, read) at a depth of `context`."""

    kind: str
    context: int = 0
    tokens: int = 64
    batch: int = 1
    pairs: int = 5
    engine: EngineConfig = DEFAULTS
    """How the model is loaded and run; the length of its context and cache follow from the rest."""
    acceptance: float | None = None
    """A draft is kept by a seeded coin of this probability: the speed that this rate would
    bring.
    """
    adaptive: bool = False
    """The engine decides what to draft, as it does when it serves; else it drafts the most."""
    noise_cache: bool = False
    """Keys and values of the context are noise instead of a prompt that was read, which takes
    hours where it is long: a step reads as many bytes. A context beyond the model's own is
    stretched by YaRN."""
    layers: int | None = None
    """Only the first layers of a preset, where all are too large to try."""

    def __post_init__(self) -> None:
        for name, least in (("context", 0), ("tokens", 2), ("batch", 1), ("pairs", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"`{name}` is {getattr(self, name)}, expected at least {least}")
        if self.noise_cache and (self.kind == "prefill" or not self.context):
            raise UsageError("`noise_cache` stands for a `context` behind which tokens are decoded")
        if self.layers is not None and self.layers < 1:
            raise UsageError(f"`layers` is {self.layers}, expected at least 1")

    def described(self) -> dict[str, Any]:
        """The options as a report names them."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        engine: EngineConfig = fields.pop("engine")
        shared = {"speculative": engine.speculative, "kv_cache_dtype": engine.kv_cache_dtype}
        return fields | shared


class CoinEngine(Engine):
    """Keeps drafts by a seeded coin instead of the model's judgement; for speed only."""

    def __init__(self, acceptance: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.acceptance, self.coin = acceptance, random.Random(MTP_COIN_SEED)
        self.drafter.is_right = self._is_right

    def agrees(self, request: Request, draft: int) -> bool:
        if self.coin.random() >= self.acceptance:
            return False
        request.tokens[-1] = draft  # what follows was computed from it
        return True

    def _is_right(self, request: Request, guess: Guess) -> bool:
        """The coin's judgement: a draft that it kept is there, one that was not verified gets a
        throw of its own."""
        if guess.verified:
            return request.tokens[guess.position] == guess.token
        return self.coin.random() < self.acceptance


class Ours:
    """Our engine, loaded once and kept at its context."""

    def __init__(self, folder: Path, options: BenchOptions) -> None:
        self.options = options
        longest = options.context + max(options.tokens, 16) + 64
        self.runner = open_runner(folder, _engine(folder, options, longest))
        pages = options.batch * -(-longest // 64) + 2
        config = dataclasses.replace(
            options.engine,
            max_model_len=min(longest, self.runner.config.context_length),
            num_pages=pages,
        )
        self.engine = (
            Engine(self.runner, config, adaptive=options.adaptive)
            if options.acceptance is None
            else CoinEngine(options.acceptance, self.runner, config, adaptive=options.adaptive)
        )
        generator = random.Random(0)
        vocab = self.runner.config.vocab_size
        self.prompts = [
            [generator.randrange(vocab) for _ in range(options.context + 1)]
            for _ in range(options.batch)
        ]
        self.fresh = random.Random(1)
        if options.noise_cache:
            for prompt in self.prompts:
                cache_noise(self.engine, prompt)

    def measure_plain(self) -> float:
        """Tokens per second of one measurement without drafts."""
        drafts, self.engine.num_drafts = self.engine.num_drafts, 0
        try:
            return self.measure()
        finally:
            self.engine.num_drafts = drafts

    def measure(self) -> float:
        """Tokens per second of one measurement."""
        requests = self._begin()
        before, start = sum(len(r.output) for r in requests), time.perf_counter()
        while self.engine.has_work:
            self.engine.step()
        seconds = time.perf_counter() - start
        if self.options.kind == "prefill":
            return self.options.tokens / seconds
        return (sum(len(r.output) for r in requests) - before) / seconds

    def _begin(self) -> list[Request]:
        """Requests up to what is measured: a fresh prompt, or prompts that have been read. Of
        these only the tails are computed again after the first time: the pages before are
        cached."""
        if self.options.kind == "prefill":
            vocab = self.runner.config.vocab_size
            prompt = [self.fresh.randrange(vocab) for _ in range(self.options.tokens)]
            return [self.engine.add(prompt, self.params(1))]
        requests = [self.engine.add(p, self.params()) for p in self.prompts]
        while any(len(r.output) < 1 for r in requests):
            self.engine.step()
        return requests

    def profile(self) -> dict[str, float]:
        """Seconds per kernel since the last call; empty on plain PyTorch."""
        return self.runner.profile() if isinstance(self.runner, NativeRunner) else {}

    def map_in(self) -> None:
        """Read the weights into memory again."""
        if isinstance(self.runner, NativeRunner):
            self.runner.map_in()

    def mean_step(self) -> tuple[Step, float]:
        """What the steps of one more measurement did, with experts counted as they were chosen;
        and how many tokens a step brought."""
        assert isinstance(self.runner, NativeRunner)
        recorder = Recorder(self.runner)
        requests = self._begin()
        before = sum(len(r.output) for r in requests)
        self.engine.runner = recorder
        while self.engine.has_work:
            self.engine.step()
        self.engine.runner = self.runner
        made = sum(len(r.output) for r in requests) - before
        tokens = self.options.tokens if self.options.kind == "prefill" else made
        return recorder.mean(), tokens / recorder.steps

    def params(self, tokens: int | None = None) -> SamplingParams:
        """Greedy decoding of N tokens, by default of what is measured."""
        return SamplingParams(
            temperature=0, max_tokens=tokens or self.options.tokens, ignore_eos=True
        )


def _engine(folder: Path, options: BenchOptions, longest: int) -> EngineConfig:
    """The engine's options, with room for a context of noise."""
    cfg = config_at(folder)
    if not options.noise_cache or longest <= cfg.context_length:
        return options.engine
    factor = max(1.0, options.context / trained_length(cfg))
    return dataclasses.replace(options.engine, hf_overrides=stretched(cfg, longest, factor))
