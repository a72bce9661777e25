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
from ling.infer.device.modules import device_modules
from ling.infer.device.runner import DeviceRunner
from ling.infer.device.weights import random_on_device
from ling.infer.engine import Engine
from ling.infer.pages import Segment, pages_for
from ling.infer.request import SamplingParams
from ling.infer.runner import Runner
from ling.infer.torch_runner import TorchRunner
from ling.model.ling import Ling, from_config
from ling.model.size import kv_bytes_per_token, parameter_counts
from ling.model.swap import swap
from ling.presets import preset

from .compare import largest, seeded
from .shapes import LAYERS, LING, QWEN3, shape
from .stage import Stage, Values
from .timing import Clock


def run(stage: Stage) -> None:
    """All checks and measurements of the stage."""
    stage.check("scores of a prompt and of decoding beside the CPU's", scores, stage)
    stage.check("tokens of the engine beside the CPU's", tokens, stage)
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
    models = (LING, True), (LING, False)
    stage.check("FP8 weights beside bfloat16 ones", pair, clock, decoder, models, 0, 1, limit_s=60)


# ---- scores ------------------------------------------------------------------------------------


def scores(stage: Stage) -> Values:
    """A small model in float32: a prompt at once, then token by token, beside the CPU's runner."""
    ids = torch.randint(0, 300, (100,), generator=seeded()).tolist()
    pages = list(range(pages_for(len(ids))))
    found = []
    for runner in (small_runner(stage.device), reference_runner()):
        runner.allocate(len(pages))
        rows = []
        for a, b in ((0, 90), *((n, n + 1) for n in range(90, 98)), (98, 100)):
            hidden = runner.forward(ids[a:b], [Segment(pages, a, 0, b - a)])
            rows.append(runner.logits(hidden).float().cpu().clone())
        found.append(torch.cat(rows))
    got, want = found
    return {"error": largest(got, want), "limit": 1e-3}


def tokens(stage: Stage) -> Values:
    """Requests of several lengths together, greedy and drawn; of 100 tokens at most two may differ,
    as nearly equal scores can change places."""
    found = [continued(runner) for runner in (small_runner(stage.device), reference_runner())]
    pairs = list(zip(*found, strict=True))
    different = sum(a != b for a, b in pairs)
    return {"error": different / len(pairs), "limit": 0.02, "tokens": len(pairs)}


def continued(runner: Runner) -> list[int]:
    """The tokens of all requests, one behind the other."""
    engine = Engine(runner, EngineConfig(num_pages=64), adaptive=False)
    requests = []
    for n, length in enumerate((1, 17, 64, 65, 130)):
        ids = torch.randint(0, 300, (length,), generator=seeded(n)).tolist()
        params = SamplingParams(max_tokens=24, temperature=n % 2, seed=n, ignore_eos=True)
        requests.append(engine.add(ids, params))
    while engine.has_work:
        engine.step()
    return [token for request in requests for token in request.output]


def small_model() -> Ling:
    """Larger weights than at the start of training: layers that matter."""
    model = from_config(preset("ling-tiny"), seed=0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.ndim > 1 else 1)
    return model


def reference_runner() -> Runner:
    """The CPU's, in plain torch."""
    return TorchRunner(small_model())


def small_runner(device: torch.device) -> Runner:
    """The device's, of the same model."""
    model = small_model().to(device)
    swap(model, device_modules())
    return DeviceRunner(model)


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
