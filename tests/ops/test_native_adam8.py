"""The kernel equals its definition to the bit, on every instruction set."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ling.errors import KernelError
from ling.ops import adam8, native, native_adam8
from ling.ops.adam8 import BLOCK, scalars

pytestmark = pytest.mark.skipif(native.library() is None, reason="the library is not built")


def same(a, b):
    """Whether bits are, those of a zero's sign included."""
    a, b = (t.view(torch.int32) if t.dtype == torch.float32 else t for t in (a, b))
    return torch.equal(a, b)


def borders(signed):
    """Values beside which codes change, and what the estimate of a code changes at."""
    codes, limits = adam8.table(signed=signed)
    decades = torch.tensor([10.0**i for i in range(-7, 1)])
    found = [torch.tensor([0.0, -0.0, 1e-45, -1e-45]), *(codes, limits[:-1], decades)]
    up = down = torch.cat([*found, *(-t for t in found)])
    for _ in range(3):
        up, down = (torch.nextafter(t, torch.tensor(to)) for t, to in ((up, 2.0), (down, -2.0)))
        found += [up, down]
    x = torch.cat([*found, torch.randn(20000) * torch.exp(6 * torch.randn(20000))])
    return x[(x.abs() <= 1) & (x >= (-1 if signed else 0))]


def check_quantise(signed):
    x = borders(signed)
    ones = torch.ones(adam8.num_blocks(len(x)))
    want, _ = adam8.quantise(x, signed=signed, absmax_B=ones)
    got, _ = native_adam8.quantise(x, signed=signed, absmax_B=ones)
    assert same(want, got)
    # Scales that are not those of the values: all beyond has the last code.
    for scale in (0.5, 0.0):
        want, _ = adam8.quantise(x, signed=signed, absmax_B=scale * ones)
        got, _ = native_adam8.quantise(x, signed=signed, absmax_B=scale * ones)
        assert same(want, got)
    for n in (1, BLOCK, 70003):
        x = torch.randn(n) * torch.exp(6 * torch.randn(n))
        x = x if signed else x.abs()
        (codes, absmax), got = (
            f(x, signed=signed) for f in (adam8.quantise, native_adam8.quantise)
        )
        assert same(codes, got[0])
        assert same(absmax, got[1])
        values = [
            f(codes, absmax, signed=signed) for f in (adam8.dequantise, native_adam8.dequantise)
        ]
        assert same(*values)


def check_steps():
    # Gradients down to where moments are not normal numbers; shards of whole and broken blocks.
    for n, size, decay in ((5000, 1, 0.1), (1, 1, 0), (70003, 1e-6, 0), (513, 1e-21, 0.1)):
        ours, wanted = torch.randn(n), None
        wanted = ours.clone()
        shards = []
        for _ in range(2):
            codes = [torch.full((n,), c, dtype=torch.uint8) for c in adam8.ZERO_CODE]
            scales = [torch.zeros(adam8.num_blocks(n)) for _ in range(2)]
            shards.append(adam8.Moments(codes[0], scales[0], codes[1], scales[1]))
        for t in range(1, 5):
            g = torch.randn(n) * torch.exp(4 * torch.randn(n)) * size
            if t == 3:
                g[::7], g[1::11] = 0.0, -0.0
                g[3::100], g[5::99], g[7::98] = math.inf, math.nan, 3e38
            s = scalars(t, 3e-4 * t, (0.9, 0.95), 1e-8, decay)
            native_adam8.step([(ours, g, shards[0], s)])
            adam8.step_reference(wanted, g, shards[1], s)
            assert same(ours, wanted), (n, t)
            for a, b in zip(*shards, strict=True):
                assert same(a, b), (n, t)


def check_all():
    torch.manual_seed(0)
    check_quantise(True)
    check_quantise(False)
    check_steps()


def test_kernel_equals_the_definition():
    check_all()


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512vnni"])
def test_kernel_of_every_instruction_set_equals_the_definition(isa):
    env = {**os.environ, "LING_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
    code = "import test_native_adam8 as t; t.check_all()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_threads_and_many_shards_change_nothing():
    def run(threads):
        torch.manual_seed(1)
        torch.set_num_threads(threads)
        shards = []
        for n in (200_000, 3, 65_536, 65_537):
            codes = [torch.full((n,), c, dtype=torch.uint8) for c in adam8.ZERO_CODE]
            scales = [torch.zeros(adam8.num_blocks(n)) for _ in range(2)]
            moments = adam8.Moments(codes[0], scales[0], codes[1], scales[1])
            s = scalars(1, 1e-3, (0.9, 0.95), 1e-8, 0.1)
            shards.append((torch.randn(n), torch.randn(n), moments, s))
        native_adam8.step(shards)
        return [t for p, _, moments, _ in shards for t in (p, *moments)]

    before = torch.get_num_threads()
    try:
        for a, b in zip(run(1), run(2), strict=True):
            assert same(a, b)
    finally:
        torch.set_num_threads(before)


def test_what_a_kernel_cannot_read_is_refused():
    p, g = torch.zeros(512), torch.zeros(1024)[::2]
    codes = torch.zeros(512, dtype=torch.uint8)
    moments = adam8.Moments(codes, torch.zeros(2), codes, torch.zeros(2))
    s = scalars(1, 1e-3, (0.9, 0.95), 1e-8, 0.1)
    with pytest.raises(KernelError, match=r"without gaps; got \[512\] torch.float32 .* \(2,\)"):
        native_adam8.step([(p, g, moments, s)])
    with pytest.raises(KernelError, match=r"takes \[2\] torch.float32 on the CPU"):
        native_adam8.step([(p, p, moments._replace(absmax2=torch.zeros(1)), s)])
