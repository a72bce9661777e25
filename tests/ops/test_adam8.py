from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from ling.ops import adam8
from ling.ops.adam8 import BLOCK, Moments, scalars

SIGNED = {"exp_avg": True, "exp_avg_sq": False}


@pytest.fixture(params=SIGNED)
def stored(request, fixtures):
    """One state of the fixture, by the part of a key behind its name, and whether it is signed."""
    held = load_file(fixtures / "training" / "state8bit.safetensors")
    name = request.param
    fields = {k.removeprefix(f"{name}."): v for k, v in held.items() if k.startswith(f"{name}.")}
    return fields, SIGNED[name]


def zeros(n):
    codes = [torch.full((n,), code, dtype=torch.uint8) for code in adam8.ZERO_CODE]
    scales = [torch.zeros(adam8.num_blocks(n)) for _ in range(2)]
    return Moments(codes[0], scales[0], codes[1], scales[1])


def test_maps_codes_and_scales_are_upstreams_bit_for_bit(stored):
    held, signed = stored
    assert torch.equal(adam8.table(signed=signed)[0], held["code"])
    codes, absmax = adam8.quantise(held["x"], signed=signed)
    assert torch.equal(codes, held["q"])
    assert torch.equal(absmax, held["absmax"])
    assert torch.equal(adam8.dequantise(codes, absmax, signed=signed), held["dequant"])


def test_a_code_is_the_nearest_and_of_two_the_even_one(stored):
    held, signed = stored
    x, code = held["x"], held["code"].double()
    codes, absmax = adam8.quantise(x, signed=signed)
    share = x.double() / absmax.repeat_interleave(BLOCK)[: len(x)]
    chosen = (code[codes.long()] - share).abs()
    assert (chosen - (code - share[:, None]).abs().amin(1)).max() < 1e-8
    middle = (held["code"][:-1] + held["code"][1:]) * 0.5
    ones = torch.ones(1)
    for i in (3, 100, 126, 127, 200, 253):
        found, _ = adam8.quantise(middle[i : i + 1], signed=signed, absmax_B=ones)
        # Exactly in the middle, as far as float32 tells.
        if held["code"][i].double() + held["code"][i + 1].double() == 2 * middle[i].double():
            assert int(found) % 2 == 0


@pytest.mark.parametrize("signed", [True, False])
def test_every_code_survives_with_its_scale_what_a_checkpoint_does(signed):
    """Of scales down to where values are no longer normal numbers; below, the values survive."""
    codes = torch.arange(256, dtype=torch.uint8)
    for scale in torch.logspace(-38, 38, 500).tolist():
        absmax = torch.tensor([scale])
        values = adam8.dequantise(codes, absmax, signed=signed)
        again, _ = adam8.quantise(values, signed=signed, absmax_B=absmax)
        if scale > 1e-30:
            assert torch.equal(again, codes), scale
        assert torch.equal(adam8.dequantise(again, absmax, signed=signed), values), scale


def test_without_its_scale_a_block_whose_largest_value_is_negative_shrinks():
    x = torch.linspace(-1, 0.5, BLOCK)
    codes, absmax = adam8.quantise(x, signed=True)
    _, again = adam8.quantise(adam8.dequantise(codes, absmax, signed=True), signed=True)
    assert float(again / absmax) == pytest.approx(0.9929688)


def test_a_step_is_the_formula_with_the_decay_behind_it():
    torch.manual_seed(0)
    n, lr, decay, betas, eps = 3 * BLOCK, 0.01, 0.5, (0.8, 0.9), 1e-3
    p, moments = torch.randn(n), zeros(n)
    for t in (1, 2, 3):
        g, before = torch.randn(n), p.double()
        m = adam8.dequantise(moments.codes1, moments.absmax1, signed=True).double()
        v = adam8.dequantise(moments.codes2, moments.absmax2, signed=False).double()
        m, v = 0.8 * m + 0.2 * g.double(), 0.9 * v + 0.1 * g.double() ** 2
        root = (v / (1 - 0.9**t)).sqrt()
        want = (before - lr * m / (1 - 0.8**t) / (root + eps)) * (1 - lr * decay)
        adam8.step_reference(p, g, moments, scalars(t, lr, betas, eps, decay))
        torch.testing.assert_close(p.double(), want, atol=1e-6, rtol=1e-5)
        assert torch.equal(moments.absmax2, v.float().view(3, BLOCK).amax(1)) or torch.allclose(
            moments.absmax2.double(), v.view(3, BLOCK).amax(1), rtol=1e-6
        )


def test_a_gradient_that_is_not_finite_leaves_its_element_alone():
    n = 2 * BLOCK
    p, moments, s = torch.ones(n), zeros(n), scalars(1, 0.1, (0.9, 0.95), 1e-8, 0.1)
    adam8.step_reference(p, torch.ones(n), moments, s)
    before = p.clone()
    g = torch.ones(n)
    bad = {3: math.inf, 4: -math.inf, 5: math.nan, 6: 1e30}  # the last one's square is infinite
    for i, value in bad.items():
        g[i] = value
    adam8.step_reference(p, g, moments, scalars(2, 0.1, (0.9, 0.95), 1e-8, 0.1))
    changed = p != before
    assert not changed[list(bad)].any()
    assert int(changed.sum()) == n - len(bad)
    codes1, codes2 = moments.codes1, moments.codes2
    assert [int(codes1[i]) for i in bad] == [adam8.ZERO_CODE[0]] * len(bad)
    assert [int(codes2[i]) for i in bad] == [adam8.ZERO_CODE[1]] * len(bad)
    assert all(t.isfinite().all() for t in (p, moments.absmax1, moments.absmax2))


def test_a_small_negative_first_moment_keeps_its_sign():
    g = torch.full((BLOCK,), 1.0)
    g[1], g[2], g[3] = -1e-20, 1e-20, 0.0
    p, moments = torch.zeros(BLOCK), zeros(BLOCK)
    adam8.step_reference(p, g, moments, scalars(1, 0.1, (0.9, 0.95), 1e-8, 0.0))
    assert moments.codes1[:4].tolist() == [255, 126, 127, 127]
