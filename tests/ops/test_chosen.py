"""Chosen experts for few rows and for many, plain and FP8, against the loop over experts."""

from __future__ import annotations

import pytest
import torch

from ling.ops import chosen, reference
from ling.ops.chosen import FP8Stack, PlainStack, chosen_swiglu
from ling.ops.fp8 import dequantise_fp8_block, quantise_fp8_block

E, F, D = 6, 128, 256


def stacked(x_EMN):
    """An FP8 stack, and the values that it stands for."""
    pairs = [quantise_fp8_block(x) for x in x_EMN]
    codes, scales = (torch.stack(part) for part in zip(*pairs, strict=True))
    return FP8Stack(codes, scales), torch.stack([dequantise_fp8_block(*pair) for pair in pairs])


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_equals_the_loop_over_experts(rows, dtype, fp8, monkeypatch):
    monkeypatch.setattr(chosen, "WIDENED_EXPERTS", 4)
    gate, up, down = (torch.randn(E, *shape) / 16 for shape in ((F, D), (F, D), (D, F)))
    both = torch.cat((gate, up), 1)
    if fp8:
        (gate_up, both), (down_stack, down) = stacked(both), stacked(down)
        gate, up = both.chunk(2, 1)
    else:
        gate_up, down_stack = PlainStack(both.to(dtype)), PlainStack(down.to(dtype))
    x_TD = torch.randn(rows, D).to(dtype)
    ids_TA = torch.rand(rows, E).topk(2).indices
    weights_TA = torch.rand(rows, 2)
    assert (ids_TA.numel() > chosen.FEW_ROWS) == (rows == 40)
    got = chosen_swiglu(x_TD, ids_TA, weights_TA, gate_up, down_stack)
    want = reference.moe(x_TD, ids_TA, weights_TA, gate.to(dtype), up.to(dtype), down.to(dtype))
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)
