"""Decoding steps at any context of a model whose KV cache has noise: no prompt is read for them."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import UsageError
from ..infer.native_runner import NativeRunner
from ..infer.open import open_runner
from ..infer.pages import Segment, pages_for

READ_TOKENS = 512
"""Of random text: with 1/32 of the experts for a token, each is taken by some of them."""


class Step(NamedTuple):
    """Seconds of one decode step, in the layers and in the head."""

    layers: float
    head: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.layers + self.head


class Decoder:
    """A model, and a cache with room for the longest context.

    The cache has noise instead of a prompt that would take an hour to read: a step reads the same
    bytes either way. Raises `UsageError` without the kernel library.
    """

    def __init__(self, folder: Path, longest: int) -> None:
        runner = open_runner(folder)
        if not isinstance(runner, NativeRunner):
            raise UsageError("decoding speed is measured with the kernel library (`ling doctor`)")
        longest = max(longest + 64, READ_TOKENS)
        self.runner, self.pages = runner, list(range(pages_for(longest)))
        self.random = random.Random(0)
        runner.allocate(len(self.pages))
        # Experts come from the disk when a token first takes them: not in a step that is timed.
        runner.forward(self._tokens(READ_TOKENS), [Segment(self.pages, 0, 0, READ_TOKENS)])
        flat = runner.kv.view(torch.bfloat16).view(-1)
        flat[: 1 << 20].normal_()
        for at in range(1 << 20, len(flat), 1 << 20):
            flat[at : at + (1 << 20)] = flat[: min(1 << 20, len(flat) - at)]

    def step(self, context: int) -> Step:
        """One decode step behind `context` tokens."""
        token = self._tokens(1)
        start = time.perf_counter()
        hidden = self.runner.forward(token, [Segment(self.pages, context, 0, 1)])
        between = time.perf_counter()
        self.runner.logits(hidden)
        return Step(between - start, time.perf_counter() - between)

    def _tokens(self, count: int) -> list[int]:
        return [self.random.randrange(self.runner.config.vocab_size) for _ in range(count)]
