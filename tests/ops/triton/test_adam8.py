"""The kernel for GPUs, run by Triton's interpreter, equals its definition to the bit."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ling.ops import adam8

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def check_steps(n):
    from ling.ops.triton import adam8 as kernel

    torch.manual_seed(n)
    ours = torch.randn(n)
    wanted, shards = ours.clone(), []
    for _ in range(2):
        codes = [torch.full((n,), c, dtype=torch.uint8) for c in adam8.ZERO_CODE]
        scales = [torch.zeros(adam8.num_blocks(n)) for _ in range(2)]
        shards.append(adam8.Moments(codes[0], scales[0], codes[1], scales[1]))
    for t in range(1, 5):
        g = torch.randn(n) * torch.exp(4 * torch.randn(n))
        if t == 3:
            g[::7], g[1::11] = 0.0, -0.0
            g[3::100], g[5::99], g[7::98] = math.inf, math.nan, 3e38
        s = adam8.scalars(t, 3e-4 * t, (0.9, 0.95), 1e-8, 0.1)
        kernel.step(ours, g, shards[0], s)
        adam8.step_reference(wanted, g, shards[1], s)
        assert torch.equal(ours.view(torch.int32), wanted.view(torch.int32)), t
        for a, b in zip(*shards, strict=True):
            assert torch.equal(a, b), t


def test_steps_are_those_of_the_definition():
    """In a process of its own: Triton asks for its interpreter when it is imported."""
    folder = str(Path(__file__).parent)
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": folder, "CUDA_VISIBLE_DEVICES": ""}
    code = "import test_adam8 as t; [t.check_steps(n) for n in (1, 1500, 5000)]"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
