"""Weights in FP8: by Triton kernels where they are on a GPU, with the same bytes elsewhere."""

from __future__ import annotations

import pytest
import torch

from ling.ops import fp8_tiles, fp8_weights


def test_on_a_cpu():
    w = torch.randn(2, 144, 272)
    codes, inverse = fp8_weights.quantise_weight(w, "float32")
    want, want_inverse = fp8_tiles.quantise_blocks(w.transpose(1, 2), "float32")
    turned = fp8_weights.transposed(codes)
    assert turned.is_contiguous()
    assert torch.equal(turned.view(torch.uint8), want.view(torch.uint8))
    assert torch.equal(inverse.transpose(1, 2), want_inverse)


def test_by_triton_kernels_on_a_gpu(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    from ling.ops.triton import quantise, transpose

    monkeypatch.setattr(fp8_weights, "has_kernels", lambda x: True)
    monkeypatch.setattr(quantise, "quantise_blocks", lambda w, scales: ("codes of", w, scales))
    monkeypatch.setattr(transpose, "transposed", lambda q: ("transposed", q))
    assert fp8_weights.quantise_weight(1.0, "float32") == ("codes of", 1.0, "float32")
    assert fp8_weights.transposed(2.0) == ("transposed", 2.0)
