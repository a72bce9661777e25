"""Rounding to E4M3 in the integers that Triton's interpreter uses, since its cast cuts digits off.

A GPU's own instruction is compared by `scripts/gpu_check`.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from ling.ops import fp8_tiles
from ling.ops.triton import quantise


def test_every_bfloat16_up_to_448_is_rounded_to_the_nearest():
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[every.abs() <= 448]
    # With a 448 in it a tile has scale 1.
    tiles = torch.nn.functional.pad(every, (0, -len(every) % 127)).view(-1, 127)
    x = torch.nn.functional.pad(tiles, (0, 1), value=448.0)
    codes, inverse = quantise.quantise_rows(x, "float32")
    assert bool((inverse == 1).all())
    assert torch.equal(codes.view(torch.uint8), x.to(torch.float8_e4m3fn).view(torch.uint8))


def test_ties_go_to_the_even_code_and_their_neighbours_to_the_nearer():
    codes = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middle = (codes[1:] + codes[:-1]) / 2
    as_bits = middle.view(torch.int32)
    around = [(as_bits + d).view(torch.float32) for d in (-1, 0, 1)]
    x = torch.stack([*around, *(-a for a in around)])
    x = torch.nn.functional.pad(x, (0, 128 - x.shape[1]), value=448.0)
    got, _ = quantise.quantise_rows(x, "float32")
    below, even, above = got.view(torch.uint8)[:3, :126].int()
    n = torch.arange(126)
    assert torch.equal(below, n.int())
    assert torch.equal(even, (n + n % 2).int())
    assert torch.equal(above, (n + 1).int())
    assert torch.equal(got.view(torch.uint8)[3:, :126].int(), got.view(torch.uint8)[:3, :126] + 128)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_the_others_of_a_tile_that_is_not_finite_keep_their_values(value):
    """Beyond the range of E4M3 they are its largest."""
    x = torch.full((2, 128), 3.0)
    x[0, :2] = torch.tensor([value, 1e4])
    codes, inverse = quantise.quantise_rows(x, "power-of-two")
    want = fp8_tiles.quantise_rows(x)[0]
    assert torch.equal(codes.view(torch.uint8), want.view(torch.uint8))
    assert inverse[:, 0].tolist() == [1, 2**-7]
    assert codes[0, 1:3].float().tolist() == [448, 3]
