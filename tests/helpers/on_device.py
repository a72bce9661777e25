"""Tiny models on a device's runner, which may be the CPU."""

from __future__ import annotations

import random

import torch

from ling.config.engine import EngineConfig
from ling.infer.device.modules import device_modules
from ling.infer.device.runner import DeviceRunner
from ling.infer.engine import Engine
from ling.infer.request import SamplingParams
from ling.model.ling import from_config
from ling.model.swap import swap
from ling.presets import preset

CFG = preset("ling-tiny").replace(num_nextn_predict_layers=2)
rng = random.Random(11)
STEM = [rng.randrange(384) for _ in range(128)]
PROMPTS = [[rng.randrange(384) for _ in range(n)] for n in (1, 17, 64, 65, 120)]
PROMPTS += [STEM + [rng.randrange(384) for _ in range(n)] for n in (1, 30)]


def model(dtype=torch.float32, cfg=CFG):
    """Larger weights than at the start of training: layers that matter."""
    made = from_config(cfg, seed=0, dtype=dtype)
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim > 1:
                p.mul_(4)
    return made


def device_runner(made, capture=None, **options):
    """On the device of the weights."""
    swap(made, device_modules())
    return DeviceRunner(made, EngineConfig(**options), capture)


def tokens(runner, temperature=0.0, n=14, **options):
    """Continuations of all prompts in one batch, every step with drafts if there are any."""
    e = Engine(runner, EngineConfig(**options), adaptive=False)
    requests = [
        e.add(ids, SamplingParams(max_tokens=n, temperature=temperature, seed=i, ignore_eos=True))
        for i, ids in enumerate(PROMPTS)
    ]
    while e.has_work:
        e.step()
    assert e.pool.available == e.pool.num_pages
    return [r.output for r in requests]
