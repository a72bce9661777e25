"""Transposing bytes is exact, and gives the codes of the transposed weight."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from ling.ops import fp8_tiles
from ling.ops.triton.transpose import transposed


@pytest.mark.parametrize("shape", [(1, 1), (64, 32), (130, 70), (3, 33, 144)])
def test_bytes_change_places_only(shape):
    q = torch.randint(0, 256, shape, dtype=torch.uint8)
    got = transposed(q)
    assert got.is_contiguous()
    assert torch.equal(got, q.transpose(-1, -2))


def test_codes_are_those_of_the_transposed_weight():
    w = torch.randn(2, 272, 144)
    (codes, inverse), (want, want_inverse) = (
        fp8_tiles.quantise_blocks(t) for t in (w, w.transpose(-1, -2))
    )
    assert torch.equal(transposed(codes).view(torch.uint8), want.view(torch.uint8))
    assert torch.equal(inverse.transpose(-1, -2), want_inverse)


def test_nothing_is_nothing():
    assert transposed(torch.empty(0, 5, dtype=torch.uint8)).shape == (5, 0)
