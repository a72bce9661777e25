"""Decoding with the whole of Ling-mini in bfloat16, in turns with a dense model of 8B.

A step is what the engine does for one request: forward pass, scores, the choice of a token. The KV
cache has noise instead of a prompt: a step reads the same bytes either way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from ling.config.engine import EngineConfig
from ling.config.model import ModelConfig
from ling.infer.choice import RowChoice
from ling.infer.pages import Segment, pages_for
from ling.infer.runner import Runner
from ling.model.ling import Ling, from_config, to_dtype
from ling.model.size import kv_bytes_per_token, parameter_counts
from ling.presets import preset

from .compare import largest, seeded
from .shapes import LAYERS, LING, QWEN3, shape
from .stage import Missing, Stage, Values
from .timing import Clock

CLAIMS = {"tokens_per_s": 300, "ratio": 2.0, "ratio_most": 7.0}
"""Published of Ling-mini: on H20 GPUs, and of long outputs."""


def run(stage: Stage) -> None:
    """All checks and measurements of the stage."""
    stage.check("scores of a prompt and of decoding beside the CPU's", scores, stage)
    contexts = (0, 100) if stage.tiny else (0, 8192, 32768)
    longest = contexts[-1] + 64
    clock = Clock(stage.device, tiny=stage.tiny, wall=True)

    @cache
    def decoders() -> tuple[Decoder, Decoder]:
        ling, dense = (
            Decoder(stage, shape(name, 3 if stage.tiny else LAYERS[name], tiny=stage.tiny), longest)
            for name in (LING, QWEN3)
        )
        return ling, dense

    for context in contexts:
        for tokens in (1, 2):
            name = f"{tokens} token{'s' * (tokens > 1)} a step at {context}"
            fields = {"context": context, "tokens": tokens}
            stage.check(name, pair, clock, decoders, context, tokens, limit_s=90, **fields)


# ---- scores ------------------------------------------------------------------------------------


def scores(stage: Stage) -> Values:
    """A small model in float32: a prompt at once, then token by token, beside the CPU's runner."""
    ids = torch.randint(0, 300, (100,), generator=seeded()).tolist()
    found = []
    for device in (stage.device, torch.device("cpu")):
        runner = runner_of(from_config(preset("ling-tiny"), seed=0), device)
        runner.allocate(pages_for(len(ids)))
        pages = list(range(pages_for(len(ids))))
        parts = [(0, 90), *((n, n + 1) for n in range(90, 98)), (98, 100)]
        rows = []
        for a, b in parts:
            hidden = runner.forward(ids[a:b], [Segment(pages, a, 0, b - a)])
            rows.append(runner.logits(hidden).float().cpu().clone())
        found.append(torch.cat(rows))
    got, want = found
    return {
        "error": largest(got, want),
        "limit": 1e-3,
        "equal": bool((got.argmax(1) == want.argmax(1)).all()),
    }


def runner_of(model: Ling, device: torch.device) -> Runner:
    """The engine's runner of a model there."""
    from ling.infer.torch_runner import TorchRunner

    if device.type == "cuda":
        raise Missing("a runner on CUDA")
    return TorchRunner(model.to(device), EngineConfig())


# ---- speed -------------------------------------------------------------------------------------


class Decoder:
    """A model with random weights, made on the device, and a KV cache full of noise."""

    def __init__(self, stage: Stage, cfg: ModelConfig, positions: int) -> None:
        self.config = cfg
        with torch.device("meta"):
            model = to_dtype(Ling(cfg), torch.bfloat16)
        model.to_empty(device=stage.device)
        model.init_weights(torch.Generator(stage.device).manual_seed(0))
        self.runner = runner_of(model, stage.device)
        self.pages = list(range(pages_for(positions)))
        self.runner.allocate(len(self.pages))
        for number in self.pages:
            for part in self.runner.page(number):
                part.normal_()
        self._token = 0

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
    clock: Clock, decoders: Callable[[], tuple[Decoder, Decoder]], context: int, tokens: int
) -> Values:
    """Steps of both models in turns."""
    ling, dense = decoders()
    found = clock.ratio(
        lambda: ling.step(context, tokens), lambda: dense.step(context, tokens), pairs=20
    )
    return {
        **found,
        "steps_per_s": 1 / found["seconds_each"],
        "base_steps_per_s": 1 / found["base_seconds_each"],
        "bytes_read_per_token": ling.bytes_read(context),
        "base_bytes_read_per_token": dense.bytes_read(context),
    }
