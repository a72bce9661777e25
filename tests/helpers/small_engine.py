"""An engine with the smallest model, and what it makes of a prompt."""

from __future__ import annotations

from ling.config.engine import EngineConfig
from ling.infer.engine import Engine
from ling.infer.open import runner_for
from ling.infer.request import Request, SamplingParams
from ling.model.ling import from_config
from ling.presets import preset


def small_engine(**options) -> Engine:
    """An engine with random weights, the same each time."""
    return Engine(runner_for(from_config(preset("ling-tiny"), seed=0)), EngineConfig(**options))


def finished(engine: Engine, prompt: list[int], salt="", n=4, adapter=None, **options) -> Request:
    """A request after all its `n` greedy tokens."""
    params = SamplingParams(max_tokens=n, temperature=0, ignore_eos=True, **options)
    request = engine.add(prompt, params, cache_salt=salt, adapter=adapter)
    while engine.has_work:
        engine.step()
    return request
