"""Decoding with the whole of Ling-mini in bfloat16, in turns with a dense model of 8B.

A step is what the engine does for one request: forward pass, scores, the choice of a token. The KV
cache has noise instead of a prompt: a step reads the same bytes either way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from ling.config.model import ModelConfig
from ling.infer.choice import RowChoice
from ling.infer.device.runner import DeviceRunner
from ling.infer.device.weights import random_on_device
from ling.infer.pages import Segment, pages_for
from ling.model.size import kv_bytes_per_token, parameter_counts

from . import decode_parity
from .shapes import LAYERS, LING, QWEN3, shape
from .stage import Stage, Values
from .timing import Clock


def run(stage: Stage) -> None:
    """All checks and measurements of the stage."""
    decode_parity.run(stage)
    contexts = (0, 100) if stage.tiny else (0, 8192, 32704)
    clock = Clock(stage.device, tiny=stage.tiny, wall=True)

    @cache
    def decoder(name: str, fp8: bool = False) -> Decoder:
        layers = 3 if stage.tiny else LAYERS[name]
        cfg = shape(name, layers, tiny=stage.tiny)
        return Decoder(stage, cfg, contexts[-1] + 64, fp8=fp8)

    for context in contexts:
        for rows in (1, 2):
            name = f"{rows} token{'s' * (rows > 1)} a step at {context}"
            fields = {"context": context, "tokens": rows}
            models = (LING, False), (QWEN3, False)
            stage.check(name, pair, clock, decoder, models, context, rows, limit_s=90, **fields)
    decoder.cache_clear()  # all of them would not fit
    stage.clean()  # runners and their steps refer to each other
    models = (LING, True), (LING, False)
    stage.check("FP8 weights beside bfloat16 ones", pair, clock, decoder, models, 0, 1, limit_s=60)


# ---- speed -------------------------------------------------------------------------------------


class Decoder:
    """A model with random weights, made on the device, and a KV cache full of noise."""

    def __init__(self, stage: Stage, cfg: ModelConfig, positions: int, *, fp8: bool) -> None:
        self.config = cfg
        network = random_on_device(cfg, torch.bfloat16, stage.device, fp8=fp8)
        self.runner = DeviceRunner(network)
        self.pages = list(range(pages_for(positions)))
        self.runner.allocate(len(self.pages))
        for number in self.pages:
            for part in self.runner.page(number):
                part.normal_()
        self._token = 0

    @property
    def graphs(self) -> int | None:
        """How many CUDA graphs there are; None where none are made, or making one failed."""
        return None if self.runner.capture is None else len(self.runner.steps.programs)

    def step(self, context: int, tokens: int) -> list[int]:
        """One step of `tokens` rows behind `context` positions."""
        self._token = (self._token + 7919) % self.config.vocab_size  # other experts every time
        given = [(self._token + n) % self.config.vocab_size for n in range(tokens)]
        hidden = self.runner.forward(given, [Segment(self.pages, context, 0, tokens)])
        chosen = self.runner.choose(self.runner.logits(hidden), [RowChoice()] * tokens)
        return [c.token() for c in chosen]

    def bytes_read(self, context: int) -> int:
        """What a step of one token must read: active weights without the table of embeddings, keys
        and values."""
        counts = parameter_counts(self.config)
        head = self.config.vocab_size * self.config.hidden_size
        active = counts["active_non_embedding"] + head
        return 2 * active + kv_bytes_per_token(self.config) * context


def pair(
    clock: Clock,
    decoder: Callable[..., Decoder],
    models: tuple[tuple[str, bool], tuple[str, bool]],
    context: int,
    rows: int,
) -> Values:
    """Steps of both models in turns."""
    ours, base = (decoder(*model) for model in models)
    found = clock.ratio(lambda: ours.step(context, rows), lambda: base.step(context, rows), 20)
    return {
        **found,
        "steps_per_s": 1 / found["seconds_each"],
        "base_steps_per_s": 1 / found["base_seconds_each"],
        "bytes_read_per_token": ours.bytes_read(context),
        "base_bytes_read_per_token": base.bytes_read(context),
        "graphs": ours.graphs,
        "equal": clock.device.type != "cuda" or bool(ours.graphs and base.graphs),
    }
