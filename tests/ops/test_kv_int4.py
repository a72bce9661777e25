"""Rows of the int4 KV cache: the turn, the codes and what is lost."""

from __future__ import annotations

import pytest
import torch

from ling.ops.formats import INT4
from ling.ops.kv_int4 import hadamard, quantise_rows_int4, rows_of_int4


def matrix(n):
    """By its definition: -1 where i & j has an odd number of bits."""
    signs = [[(-1.0) ** (i & j).bit_count() for j in range(n)] for i in range(n)]
    return torch.tensor(signs) / n**0.5


@pytest.mark.parametrize("n", [2, 32, 128])
def test_a_turn_is_a_product_with_the_matrix_and_its_own_inverse(n):
    x = torch.randn(7, 3, n)
    torch.testing.assert_close(hadamard(x), x @ matrix(n), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hadamard(hadamard(x)), x, atol=1e-5, rtol=1e-5)
    assert torch.equal(hadamard(x)[3:5], hadamard(x[3:5]))


def test_the_largest_magnitude_takes_the_lowest_level_whichever_its_sign():
    x = torch.randn(50, 64)
    codes, scales = quantise_rows_int4(x)
    assert (codes.dtype, codes.shape) == (torch.uint8, (50, 32))
    turned = hadamard(x)
    at = turned.abs().argmax(-1, keepdim=True)
    unit = turned.gather(-1, at)[:, 0] / INT4.levels[0]
    assert ((scales / unit - 1).abs() < 0.15).all()
    assert {bool(s > 0) for s in scales} == {True, False}
    number = torch.cat((codes & 15, codes >> 4), -1)
    assert not number.gather(-1, at).any()
    # Every channel has its nearest level, and no other scale fits them better.
    levels = torch.tensor(INT4.levels).float()
    want = turned / unit[:, None]
    best = (want[..., None] - levels).abs().amin(-1)
    assert ((levels[number.long()] - want).abs() - best).max() < 0.01
    for factor in (0.999, 1.001):
        lost = [(rows_of_int4(codes, s) - x).square().sum(-1) for s in (scales, factor * scales)]
        assert (lost[0] < lost[1]).all()


def test_one_large_channel_costs_no_more_than_normal_rows_do():
    x = torch.randn(200, 128)
    x[:, 5] *= 100

    def error(x):
        return ((rows_of_int4(*quantise_rows_int4(x)) - x).norm() / x.norm()).item()

    assert error(torch.randn(200, 128)) < 0.1
    assert error(x) < 0.1


def test_rows_of_zeros_and_rows_that_are_not_finite():
    x = torch.randn(4, 32)
    x[1], x[2, 3], x[3, 0] = 0, float("nan"), float("inf")
    codes, scales = quantise_rows_int4(x)
    got = rows_of_int4(codes, scales)
    assert torch.equal(got[1], torch.zeros(32))
    assert got[2:].isnan().all()
    assert torch.equal(codes[0], quantise_rows_int4(x[:1])[0][0])
