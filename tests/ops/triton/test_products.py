"""Products of FP8 tiles equal products of the values that the codes stand for.

Sums are float32 in both, in another order: 1e-6 of the largest sum apart.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from ling.ops import fp8_tiles
from ling.ops.triton.products import product, weight_gradient
from ling.ops.triton.quantise import quantise_blocks, quantise_columns, quantise_rows
from ling.ops.triton.tiles import tiles_of

# Experts without rows, with few, with a whole tile and with parts of one.
GROUPS = [0, 0, 16, 144, 144, 304]
BEHIND = 16
E, N, K = len(GROUPS) - 1, 144, 272


def near(got, want):
    assert got.dtype == torch.float32
    assert float((got - want).abs().max()) <= 1e-6 * float(want.abs().max())


@pytest.fixture(params=["power-of-two", "float32"])
def scales(request):
    return request.param


@pytest.fixture
def tiles():
    return tiles_of(torch.tensor(GROUPS[1:]), GROUPS[-1] + BEHIND)


def rows(columns):
    torch.manual_seed(columns)
    return torch.randn(GROUPS[-1] + BEHIND, columns).bfloat16()


def test_each_row_times_the_weight_of_its_expert(scales, tiles):
    x, w = rows(K), torch.randn(E, N, K)
    y = product(quantise_rows(x, scales), quantise_blocks(w, scales), tiles, torch.float32)
    x_wide = fp8_tiles.dequantise_rows(*fp8_tiles.quantise_rows(x, scales))
    w_wide = fp8_tiles.dequantise_blocks(*fp8_tiles.quantise_blocks(w, scales))
    want = [x_wide[a:b] @ w_wide[e].t() for e, (a, b) in enumerate(pairwise(GROUPS))]
    near(y[: GROUPS[-1]], torch.cat(want))
    assert not y[GROUPS[-1] :].any()


def test_gradient_of_each_weight(scales, tiles):
    dy, x = rows(N), rows(K)
    got = weight_gradient(
        quantise_columns(dy, scales, tiles),
        quantise_columns(x, scales, tiles),
        tiles,
        torch.float32,
    )
    dy_wide, x_wide = (
        fp8_tiles.dequantise_columns(
            *fp8_tiles.quantise_columns(t[: GROUPS[-1]], scales, GROUPS), GROUPS
        )
        for t in (dy, x)
    )
    near(got, torch.stack([dy_wide[a:b].t() @ x_wide[a:b] for a, b in pairwise(GROUPS)]))
    assert [bool(g.any()) for g in got] == [False, True, True, False, True]
