"""Codes and scales of the GPU kernels are those of the reference, bit for bit."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from ling.ops import fp8_tiles
from ling.ops.triton import quantise
from ling.ops.triton.tiles import tiles_of

SCALES = ("power-of-two", "float32")
# Experts without rows first, in the middle and last; one with more than a tile.
GROUPS = [0, 0, 3, 130, 130, 259, 291, 291]


def bits(x):
    """Values to compare: equal numbers, NaNs and signs of zeros alike."""
    return x.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()])


def same(got, want):
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert torch.equal(bits(got), bits(want))


def numbers(rows, columns, dtype):
    """Of many magnitudes, with zeros, and with tiles that overflow or vanish."""
    torch.manual_seed(0)
    x = torch.randn(rows, columns) * (3 * torch.randn(rows, columns)).exp()
    x[1] = 0
    x[2] *= 1e-38
    x[4] *= 1e30
    x = x.to(dtype)
    # Triton's interpreter widens bfloat16 below the normal numbers wrongly; a GPU does not.
    return x if dtype == torch.float32 else x.where(x.abs() >= torch.finfo(dtype).tiny, 0)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def x(request):
    """Neither rows nor columns are whole tiles."""
    return numbers(291, 208, request.param)


@pytest.mark.parametrize("scales", SCALES)
def test_rows(x, scales):
    for got, want in zip(
        quantise.quantise_rows(x, scales), fp8_tiles.quantise_rows(x, scales), strict=True
    ):
        same(got, want)


@pytest.mark.parametrize("scales", SCALES)
def test_columns(x, scales):
    q_KS, inv_PK = quantise.quantise_columns(x, scales)
    want_q, want_inv = fp8_tiles.quantise_columns(x, scales)
    same(q_KS[:, : len(x)].t(), want_q)
    same(inv_PK, want_inv)
    assert not q_KS.view(torch.uint8)[:, len(x) :].any()


@pytest.mark.parametrize("scales", SCALES)
def test_columns_of_each_expert(x, scales):
    behind = torch.cat((x, x[:50]))  # rows without an expert
    tiles = tiles_of(torch.tensor(GROUPS[1:]), len(behind))
    q_KS, inv_PK = quantise.quantise_columns(behind, scales, tiles)
    want_q, want_inv = fp8_tiles.quantise_columns(x, scales, GROUPS)
    sizes = (tiles.end_P - tiles.start_P).tolist()
    used = [p for p, e in enumerate(tiles.expert_P.tolist()) if e < tiles.experts and sizes[p] > 0]
    parts = [q_KS[:, 128 * p : 128 * p + sizes[p]].view(torch.uint8) for p in used]
    same(torch.cat(parts, 1).t().contiguous().view(q_KS.dtype), want_q)
    same(inv_PK[used], want_inv)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("experts", [(), (2,)])
def test_blocks(x, scales, experts):
    w = x.expand(*experts, *x.shape)
    for got, want in zip(
        quantise.quantise_blocks(w, scales), fp8_tiles.quantise_blocks(w, scales), strict=True
    ):
        same(got, want)


def test_transposed_rows_are_read_by_their_strides():
    x = numbers(208, 136, torch.bfloat16).t()
    same(quantise.quantise_rows(x, "float32")[0], fp8_tiles.quantise_rows(x, "float32")[0])


def test_no_rows():
    x = torch.empty(0, 128)
    assert [t.shape for t in quantise.quantise_rows(x, "float32")] == [(0, 128), (0, 1)]
    assert [t.shape for t in quantise.quantise_columns(x, "float32")] == [(128, 0), (0, 128)]
