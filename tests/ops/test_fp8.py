from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ling.ops.fp8 import dequantise_fp8_block, quantise_fp8_block, widen_blocks


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("case", range(4))
def test_block_cast_is_upstreams_bit_for_bit(case, power_of_two, fixtures):
    held = load_file(fixtures / "fp8" / "block_cast.safetensors")
    values, scales = quantise_fp8_block(held[f"case{case}.x"], power_of_two=power_of_two)
    suffix = f"ue8m0_{int(power_of_two)}"
    assert torch.equal(values.view(torch.uint8), held[f"case{case}.q_bytes.{suffix}"])
    assert torch.equal(scales, held[f"case{case}.scale_inv.{suffix}"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (127, 129), (384, 256), (5, 400)])
def test_error_is_at_most_half_a_step_of_three_bits(shape, dtype):
    x = torch.randn(shape).to(dtype)
    values, scales = quantise_fp8_block(x)
    assert scales.shape == tuple(-(-n // 128) for n in shape)
    back = dequantise_fp8_block(values, scales)
    # Below 2^-6 of the scale the step is fixed.
    step = torch.maximum(x.float().abs() / 16, scales.max() * 2.0**-10)
    assert ((back - x.float()).abs() <= step * 1.001).all()


def test_zero_block_has_the_smallest_scale():
    values, scales = quantise_fp8_block(torch.zeros(130, 3))
    assert torch.equal(scales, torch.full((2, 1), 1e-4) / 448)
    assert not values.float().any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_fp8_cannot_hold_shows_in_the_scale(bad):
    x = torch.ones(128, 256, dtype=torch.bfloat16)
    x[5, 200] = bad
    _, scales = quantise_fp8_block(x)
    assert scales.isfinite().tolist() == [[True, False]]


@pytest.mark.parametrize("shape", [(256, 128), (300, 200), (5, 3)])
def test_blocks_are_widened_to_the_same_values_alone_and_in_stacks(shape):
    pairs = [quantise_fp8_block(torch.randn(shape)) for _ in range(2)]
    want = torch.stack([dequantise_fp8_block(*pair) for pair in pairs])
    codes, scales = (torch.stack(part) for part in zip(*pairs, strict=True))
    assert torch.equal(widen_blocks(codes, scales, torch.float32), want)
    got = widen_blocks(*pairs[0], torch.bfloat16)
    assert torch.equal(got, want[0].to(torch.bfloat16))
