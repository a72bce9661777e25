"""The torch definition of packed formats, which the native kernels are held to."""

from __future__ import annotations

import pytest
import torch

from ling.ops import fp8, packing
from ling.ops.formats import FORMATS

ALL = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
INTEGER = pytest.mark.parametrize(
    "fmt", [f for f in FORMATS.values() if f.integer], ids=lambda f: f.name
)
INT4 = pytest.mark.parametrize(
    "fmt", [f for f in FORMATS.values() if f.levels], ids=lambda f: f.name
)


def nrmse(got, want):
    return float((got - want).norm() / want.norm())


@ALL
def test_error_on_normal_weights_is_within_its_bound_and_near_it(fmt):
    w = torch.randn(256, 512)
    error = nrmse(packing.unpack(packing.pack(w, fmt)), w)
    # A bound far above what is reached would hide a loss of quality.
    assert fmt.max_nrmse / 2 < error < fmt.max_nrmse


@ALL
def test_bits_per_weight_are_the_bytes_in_memory(fmt):
    packed = packing.pack(torch.randn(64, 512), fmt)
    assert packed.nbytes * 8 / (64 * 512) == fmt.bits


@ALL
@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (17, 65), (33, 130), (5, 300)])
def test_shapes_are_those_that_packed_shapes_tells(fmt, shape):
    packed = packing.pack(torch.randn(shape), fmt)
    data, scales = packing.packed_shapes(fmt, *shape)
    assert packed.data.shape == data
    assert (packed.scales is None) if scales is None else packed.scales.shape == scales
    assert packing.unpack(packed).shape == shape


@ALL
def test_packing_unpacked_weights_again_changes_nothing(fmt):
    """int4 refits its scale, so it is only near; the others have the values on their grid."""
    w = packing.unpack(packing.pack(torch.randn(40, 200), fmt))
    again = packing.unpack(packing.pack(w, fmt))
    if fmt.levels:
        assert nrmse(again, w) < fmt.max_nrmse
    else:
        assert nrmse(again, w) < 0.005


@ALL
def test_padding_adds_nothing(fmt):
    w = torch.randn(20, 70)
    wide = torch.zeros(32, 128)
    wide[:20, :70] = w
    want = packing.unpack(packing.pack(wide, fmt))[:20, :70]
    assert torch.equal(packing.unpack(packing.pack(w, fmt)), want)


@INT4
def test_int4_never_loses_to_its_own_grid_point(fmt):
    """The refitted scale is as good as every clip of the grid without a refit: nearly for each
    group, since the search rounds to 8 bits and the scale to bfloat16, and better on the whole.
    """
    w = torch.randn(512, fmt.group)
    levels = torch.tensor(fmt.levels, dtype=torch.float32)
    best = ((packing.unpack(packing.pack(w, fmt)) - w) ** 2).sum(1)
    largest = w.gather(1, w.abs().argmax(1, keepdim=True))
    for clip in fmt.clips:
        scale = largest / clip
        q = levels[(w / scale)[..., None].sub(levels).abs().argmin(-1)]
        error = ((q * scale - w) ** 2).sum(1)
        assert (best <= error * 1.15).all()
        assert (best <= error * 1.02).float().mean() > 0.95
        assert best.sum() < 0.95 * error.sum()


@INT4
def test_importance_lowers_the_weighted_error(fmt):
    w, h = torch.randn(64, 512), torch.rand(512).exp().pow(4)
    plain, weighted = (packing.unpack(packing.pack(w, fmt, i)) for i in (None, h))

    def error(got):
        return float((h * (got - w) ** 2).sum())

    assert error(weighted) < 0.99 * error(plain)


@INTEGER
def test_a_group_of_zeros_is_zero(fmt):
    w = torch.randn(16, 2 * fmt.group)
    w[3, fmt.group :] = 0
    got = packing.unpack(packing.pack(w, fmt))
    assert (got[3, fmt.group :] == 0).all()
    assert got.isfinite().all()


@INTEGER
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_group(fmt, bad):
    w = torch.randn(16, 2 * fmt.group)
    w[3, fmt.group + 5] = bad
    got = packing.unpack(packing.pack(w, fmt))
    assert got[3, fmt.group :].isnan().all()
    got[3, fmt.group :] = 0
    assert got.isfinite().all()


@ALL
def test_product_is_that_of_the_unpacked_weights(fmt):
    w, x = torch.randn(48, 320), torch.randn(7, 320)
    packed = packing.pack(w, fmt)
    # Activations of 8 bits add their own error, far below that of 4-bit weights.
    assert nrmse(packing.matmul(packed, x), x @ packing.unpack(packed).t()) < 0.01


def test_fp8_keeps_the_bytes_and_scales_of_a_checkpoint():
    bytes_NK = torch.randint(256, (150, 300), dtype=torch.uint8)
    scales = torch.rand(2, 3) + 0.1
    packed = packing.lay_out_fp8(bytes_NK.view(torch.float8_e4m3fn), scales)
    want = fp8.dequantise_fp8_block(bytes_NK.view(torch.float8_e4m3fn), scales)
    assert torch.equal(packing.unpack(packed).nan_to_num(7), want.nan_to_num(7))
    assert packed.data.unique().equal(bytes_NK.unique())
    assert packed.scales.unique().equal(scales.unique())
