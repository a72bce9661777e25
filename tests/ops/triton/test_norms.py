"""Norms and rotation of the GPU kernels are the reference's, roundings included."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from ling.ops import reference
from ling.ops.triton.norms import norm_rotate, rms_norm

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def close(got, want):
    """The interpreter cuts bfloat16 off where a GPU rounds."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    tolerance = 1e-6 if want.dtype == torch.float32 else 0.03
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@TYPES
@pytest.mark.parametrize("shape", [(3, 96), (2, 4, 64)])
def test_rms_norm(shape, dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype), torch.rand(shape[-1])
    close(rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))


@TYPES
@pytest.mark.parametrize("rotary", [16, 32])
def test_queries_and_keys_have_weights_of_their_own(rotary, dtype):
    torch.manual_seed(0)
    qkv = torch.randn(5, 8, 32).to(dtype)  # four heads of queries, two of keys, two of values
    weights = torch.rand(2, 32).to(dtype).unbind(0)
    angles = torch.rand(5, rotary // 2).repeat(1, 2)
    rope = angles.cos().to(dtype), angles.sin().to(dtype)
    got = norm_rotate(qkv[:, :6], weights, 4, 1e-6, rope)
    for heads, weight in zip((slice(0, 4), slice(4, 6)), weights, strict=True):
        normed = reference.rms_norm(qkv[:, heads], weight, 1e-6)
        close(got[:, heads], reference.rotate(normed, *rope))
