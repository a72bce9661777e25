"""Runs an engine on a device that is not the CPU, without one; prints what it gave as JSON.

For a process of its own (`other_device.py`).
"""

from __future__ import annotations

import json

import torch
from on_device import device_runner, model, tokens
from other_device import NAME, OtherDevice, register

from ling.infer.device.graphs import eager_capture
from ling.infer.device.runner import DeviceRunner
from ling.infer.engine import Engine

POOL = {"max_model_len": 256, "num_pages": 40, "speculative": "mtp", "num_drafts": 2}


def main() -> None:
    """Tokens on both devices, and what decode steps waited for while they computed."""
    register()
    torch.set_num_threads(1)
    want = tokens(device_runner(model(), **POOL), 0.8, **POOL)
    for cls in (Engine, DeviceRunner):
        _without_inference_mode(cls)
    with torch.no_grad(), OtherDevice() as mode:
        runner = device_runner(model().to(torch.device(NAME, 0)), eager_capture, **POOL)
        waits: list[str] = []
        compute = runner._even

        def watched(*args):
            mode.waits.clear()
            out = compute(*args)
            waits.extend(mode.waits)
            return out

        runner._even = watched
        got = tokens(runner, 0.8, **POOL)
    programs = len(runner.steps.programs)
    print(json.dumps({"want": want, "got": got, "waits": waits, "programs": programs}))


def _without_inference_mode(cls: type) -> None:
    """Tensors that are made of others, as the device's are, cannot be tensors of that mode."""
    for name, method in list(vars(cls).items()):
        if hasattr(method, "__wrapped__"):
            setattr(cls, name, method.__wrapped__)


if __name__ == "__main__":
    main()
