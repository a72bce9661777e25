"""Products with chosen matrices of the GPU kernel, plain and FP8."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from ling.ops.fp8 import dequantise_fp8_block, quantise_fp8_block
from ling.ops.triton.chosen import chosen_product, weighted_sum


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 256), (200, 300)])
def test_each_row_meets_its_matrix(outputs, inputs, dtype, fp8):
    torch.manual_seed(0)
    w, scales = torch.randn(5, outputs, inputs), None
    stored = w = w.to(dtype)
    if fp8:
        pairs = [quantise_fp8_block(x.float()) for x in w]
        stored, scales = (torch.stack(part) for part in zip(*pairs, strict=True))
        w = torch.stack([dequantise_fp8_block(*pair) for pair in pairs]).to(dtype)
    x, ids = torch.randn(2, inputs).to(dtype), torch.tensor([4, 0, 4, 1, 2, 2])
    got = chosen_product(x, ids, stored, scales)
    want = torch.einsum("nok,nk->no", w[ids].float(), x.repeat_interleave(3, 0).float())
    assert got.dtype == dtype
    # The interpreter cuts bfloat16 off where a GPU rounds.
    error = (got.float() - want).norm() / want.norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gate_and_up_meet_before_the_product_and_rows_of_a_token_are_added(dtype):
    torch.manual_seed(0)
    w, gu = torch.randn(3, 40, 300).to(dtype), torch.randn(4, 600).to(dtype)
    gate, up = gu.chunk(2, 1)
    x, ids = torch.nn.functional.silu(gate) * up, torch.tensor([2, 0, 1, 1])
    got = chosen_product(gu, ids, w, gated=True)
    want = torch.einsum("nok,nk->no", w[ids].float(), x.float())
    error = (got.float() - want).norm() / want.norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.01)
    weights = torch.rand(2, 2)
    sums = weighted_sum(got.view(2, 2, -1), weights)
    added = (got.view(2, 2, -1).float() * weights[..., None]).sum(1)
    torch.testing.assert_close(
        sums.float(), added, atol=1e-5, rtol=1e-5 if dtype == torch.float32 else 0.01
    )
