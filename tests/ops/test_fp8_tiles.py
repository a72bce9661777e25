"""Training's quantisation to FP8: tiles, encoders and borders, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ling.ops import fp8_tiles

SCALES = ("power-of-two", "float32")


def encoder(largest: float, scales: str) -> np.float32:
    """The definition, in numpy."""
    with np.errstate(all="ignore"):
        if not (largest > 0 and np.isfinite(largest)):
            return np.float32(1)
        enc = min(np.float32(448) / np.float32(largest), np.finfo(np.float32).max)
        if scales == "float32":
            return np.float32(enc)
        return np.float32(2.0 ** np.floor(np.log2(np.float64(enc))))


def tile_values(tile: np.ndarray, scales: str) -> tuple[torch.Tensor, np.float32]:
    """Codes of one tile, and its inverse scale."""
    enc = encoder(float(np.abs(tile).max()), scales)
    codes = torch.from_numpy(np.float32(tile) * enc).to(torch.float8_e4m3fn)
    return codes, np.float32(1) / enc


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Values of many magnitudes, with a tile of zeros and denormal ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    x *= torch.logspace(-8, 4, columns)
    x[:, : min(columns, 128)] *= (torch.arange(rows) % 3 != 0)[:, None]
    x[-1] *= 1e-37
    return x


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("shape", [(3, 128), (130, 300), (257, 16), (1, 1)])
@pytest.mark.parametrize("kind", ["rows", "columns", "blocks"])
def test_every_tile_follows_the_definition(kind, shape, scales):
    x = matrix(*shape)
    high, wide = {"rows": (1, 128), "columns": (128, 1), "blocks": (128, 128)}[kind]
    q, inverse = getattr(fp8_tiles, f"quantise_{kind}")(x, scales)
    assert q.shape == x.shape
    assert inverse.shape == (-(-shape[0] // high), -(-shape[1] // wide))
    for i in range(inverse.shape[0]):
        for j in range(inverse.shape[1]):
            part = (slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide))
            codes, inv = tile_values(x[part].numpy(), scales)
            assert torch.equal(q[part].view(torch.uint8), codes.view(torch.uint8)), (i, j)
            assert inverse[i, j] == inv


@pytest.mark.parametrize("largest", [0.0, float("inf"), float("nan")])
@pytest.mark.parametrize("scales", SCALES)
def test_a_tile_without_a_finite_largest_value_has_scale_1(largest, scales):
    x = torch.full((1, 128), 0.5)
    x[0, 3] = largest
    if largest == 0:
        x.zero_()
    q, inverse = fp8_tiles.quantise_rows(x, scales)
    assert inverse.item() == 1
    assert q.float()[0, 0] == x[0, 0]
    wanted = {0.0: 0.0, float("inf"): 448.0}.get(largest, float("nan"))
    torch.testing.assert_close(q.float()[0, 3].item(), wanted, rtol=0, atol=0, equal_nan=True)


def test_scales_are_finite_and_above_zero_for_any_magnitude():
    largest = torch.tensor([1e-45, 1e-40, 1e-38, 1.3e-36, 1.0, 3.4e38, 0.0, float("inf")])
    for scales in SCALES:
        inverse = 1 / fp8_tiles.encoders(largest, scales)
        assert inverse.isfinite().all()
        assert (inverse > 0).all()


@pytest.mark.parametrize("case", range(4))
def test_blocks_are_those_of_the_converter_where_it_has_no_floor(case, fixtures):
    held = load_file(fixtures / "fp8" / "block_cast.safetensors")
    x, scales = held[f"case{case}.x"], held[f"case{case}.scale_inv.ue8m0_1"]
    q, inverse = fp8_tiles.quantise_blocks(x)
    above = scales > scales.min() if case in (2, 3) else scales > 0
    above &= scales > 1e-4 / 448 * 2
    assert torch.equal(inverse[above], scales[above])
    each = above.repeat_interleave(128, 0).repeat_interleave(128, 1)[: len(x), : x.shape[1]]
    assert torch.equal(q.view(torch.uint8)[each], held[f"case{case}.q_bytes.ue8m0_1"][each])
    assert above.any() or case == 2


def test_columns_begin_again_at_each_experts_rows():
    x = matrix(300, 40)
    groups = [0, 0, 130, 135, 300]
    q, inverse = fp8_tiles.quantise_columns(x, groups=groups)
    alone = [fp8_tiles.quantise_columns(x[a:b]) for a, b in ((0, 130), (130, 135), (135, 300))]
    assert torch.equal(q.view(torch.uint8), torch.cat([c.view(torch.uint8) for c, _ in alone]))
    assert torch.equal(inverse, torch.cat([i for _, i in alone]))
    back = fp8_tiles.dequantise_columns(q, inverse, groups)
    assert torch.equal(back[130:135], fp8_tiles.dequantise_columns(*alone[1]))


def test_blocks_of_experts_are_those_of_each_alone():
    w = matrix(260, 150).view(2, 130, 150)
    q, inverse = fp8_tiles.quantise_blocks(w)
    for e in range(2):
        codes, scales = fp8_tiles.quantise_blocks(w[e])
        assert torch.equal(q[e].view(torch.uint8), codes.view(torch.uint8))
        assert torch.equal(inverse[e], scales)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_widened_values_are_exactly_bfloat16(dtype):
    x = matrix(130, 300).to(dtype)
    x[-1] = 1  # the row of denormal numbers is below what bfloat16 tells apart
    rows = fp8_tiles.dequantise_rows(*fp8_tiles.quantise_rows(x))
    columns = fp8_tiles.dequantise_columns(*fp8_tiles.quantise_columns(x))
    assert torch.equal(fp8_tiles.rounded_rows(x).float(), rows)
    assert torch.equal(fp8_tiles.rounded_columns(x).float(), columns)
    q, inverse = fp8_tiles.quantise_blocks(x)
    widened = fp8_tiles.widened_blocks(q, inverse)
    assert torch.equal(widened.float(), fp8_tiles.dequantise_blocks(q, inverse))
