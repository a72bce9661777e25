"""Quantising to FP8 as training does it: E4M3 values with a scale per tile.

Tiles are 1 × 128 along the dimension that a product adds up (activations, gradients), 128 × 1 for
the product that adds up tokens (gradients of weights), and 128 × 128 for weights; at borders they
are smaller. The encoder of a tile is 448 / (largest magnitude), without a floor, and by default
rounded down to a power of two; it is 1 where the largest magnitude is 0 or not finite. What is
above 448 then becomes 448, as GPUs cast; NaN stays NaN. (The cast of checkpoints has other rules:
`ops/fp8.py`.)

The `rounded_*` functions quantise and widen to bfloat16 in one pass. With scales that are powers of
two this is exact, so a bfloat16 product of their results has the numerics of an FP8 product.
Legend: M rows · K columns · N outputs · K128 = ceil(K / 128) · E experts.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import native, native_fp8
from .formats import FP8_BLOCK
from .fp8 import E4M3_MAX

Scales = Literal["power-of-two", "float32"]
POWER_OF_TWO: Scales = "power-of-two"
_EXPONENT = 0x7F800000  # of a float32


def encoders(largest: Tensor, scales: Scales = POWER_OF_TWO) -> Tensor:
    """What the values of each tile are multiplied by, from their largest magnitudes (float32)."""
    # Not `E4M3_MAX / largest`: torch multiplies by the reciprocal then, which rounds twice.
    encoder = torch.full_like(largest, E4M3_MAX).div_(largest)
    encoder = encoder.clamp_(max=torch.finfo(torch.float32).max)
    if scales == POWER_OF_TWO:
        encoder = (encoder.view(torch.int32) & _EXPONENT).view(torch.float32)
    has_scale = (largest > 0) & largest.isfinite()
    return torch.where(has_scale, encoder, 1.0)


def quantise_rows(x_MK: Tensor, scales: Scales = POWER_OF_TWO) -> tuple[Tensor, Tensor]:
    """E4M3 values q_MK and inverse scales [M, K128] of tiles of 1 × 128."""
    tiles = _padded(x_MK, 1).unflatten(1, (-1, FP8_BLOCK)).float()
    encoder = encoders(tiles.abs().amax(2), scales)
    q_MK = (tiles * encoder[..., None]).flatten(1)[:, : x_MK.shape[1]]
    return _cast(q_MK), torch.ones_like(encoder).div_(encoder)


def quantise_columns(
    x_MK: Tensor, scales: Scales = POWER_OF_TWO, groups: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """E4M3 values q_MK and inverse scales [tiles, K] of tiles of 128 rows × 1 column.

    Tiles begin again at each border of `groups` (`experts.Slots.offsets`), so there are
    ceil(rows / 128) of them for each expert, one behind the other.
    """
    parts = [quantise_rows(part.t(), scales) for part in _parts(x_MK, groups)]
    if not parts:
        empty = x_MK.new_empty((0, x_MK.shape[1]), dtype=torch.float32)
        return empty.to(torch.float8_e4m3fn), empty
    q_MK = torch.cat([q.view(torch.uint8).t() for q, _ in parts])
    return q_MK.view(torch.float8_e4m3fn), torch.cat([inverse.t() for _, inverse in parts])


def quantise_blocks(w_NK: Tensor, scales: Scales = POWER_OF_TWO) -> tuple[Tensor, Tensor]:
    """E4M3 values q_NK and inverse scales [N128, K128] of blocks of 128 × 128.

    Leading dimensions (experts) stay.
    """
    N, K = w_NK.shape[-2:]
    blocks = _padded(_padded(w_NK, 2), 1).float()
    blocks = blocks.unflatten(-1, (-1, FP8_BLOCK)).unflatten(-3, (-1, FP8_BLOCK))
    encoder = encoders(blocks.abs().amax((-1, -3)), scales)
    q = (blocks * encoder[..., :, None, :, None]).flatten(-2).flatten(-3, -2)[..., :N, :K]
    return _cast(q), torch.ones_like(encoder).div_(encoder)


def dequantise_rows(q_MK: Tensor, inverse: Tensor) -> Tensor:
    """float32 values of `quantise_rows`."""
    return q_MK.float() * inverse.repeat_interleave(FP8_BLOCK, 1)[:, : q_MK.shape[1]]


def dequantise_columns(q_MK: Tensor, inverse: Tensor, groups: list[int] | None = None) -> Tensor:
    """float32 values of `quantise_columns`."""
    return q_MK.float() * inverse[tile_of_row(len(q_MK), groups).to(q_MK.device)]


def dequantise_blocks(q_NK: Tensor, inverse: Tensor) -> Tensor:
    """float32 values of `quantise_blocks`."""
    N, K = q_NK.shape[-2:]
    each = inverse.repeat_interleave(FP8_BLOCK, -2).repeat_interleave(FP8_BLOCK, -1)
    return q_NK.float() * each[..., :N, :K]


def tile_of_row(rows: int, groups: list[int] | None = None) -> Tensor:
    """Which tile of `quantise_columns` each row is in."""
    sizes = [b - a for a, b in pairwise(groups if groups is not None else [0, rows])]
    firsts, tiles = [], 0
    for size in sizes:
        firsts.append(torch.arange(size) // FP8_BLOCK + tiles)
        tiles += -(-size // FP8_BLOCK)
    return torch.cat(firsts) if firsts else torch.empty(0, dtype=torch.int64)


def rounded_rows(x_MK: Tensor) -> Tensor:
    """`quantise_rows` with powers of two, widened again to bfloat16."""
    if native_fp8.takes(x_MK):
        return native_fp8.rounded(x_MK, native_fp8.ROWS)
    return dequantise_rows(*quantise_rows(x_MK)).to(torch.bfloat16)


def rounded_columns(x_MK: Tensor, groups: list[int] | None = None) -> Tensor:
    """`quantise_columns` with powers of two, widened again to bfloat16."""
    if native_fp8.takes(x_MK):
        return native_fp8.rounded(x_MK, native_fp8.COLUMNS, groups)
    q_MK, inverse = quantise_columns(x_MK, POWER_OF_TWO, groups)
    return dequantise_columns(q_MK, inverse, groups).to(torch.bfloat16)


def quantise_weight(w_NK: Tensor, scales: Scales = POWER_OF_TWO) -> tuple[Tensor, Tensor]:
    """`quantise_blocks`, by the C++ kernel where it can."""
    if not native_fp8.takes(w_NK) or w_NK.ndim > 3:
        return quantise_blocks(w_NK, scales)
    N, K = w_NK.shape[-2:]
    rows = w_NK.reshape(-1, K)
    borders = list(range(0, len(rows) + 1, N))
    power_of_two = scales == POWER_OF_TWO
    codes, inverse = native_fp8.quantised(
        rows, native_fp8.BLOCKS, power_of_two=power_of_two, ends=borders
    )
    return codes.view(w_NK.shape), inverse.view(*w_NK.shape[:-2], -(-N // FP8_BLOCK), -1)


def widened_blocks(q_NK: Tensor, inverse: Tensor) -> Tensor:
    """`dequantise_blocks`, rounded to bfloat16."""
    if not q_NK.is_cpu or native.library() is None or not q_NK.numel():
        return dequantise_blocks(q_NK, inverse).to(torch.bfloat16)
    if q_NK.ndim == 2:
        return native.widen_fp8(q_NK, inverse)
    if q_NK.shape[-2] % FP8_BLOCK == 0:  # blocks of one expert end where those of the next begin
        return native.widen_fp8(q_NK.flatten(0, -2), inverse.flatten(0, -2)).view(q_NK.shape)
    return torch.stack([native.widen_fp8(*pair) for pair in zip(q_NK, inverse, strict=True)])


def _cast(x: Tensor) -> Tensor:
    """To E4M3; versions of torch differ in what they make of values above 448."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _padded(x: Tensor, last: int) -> Tensor:
    """Zeros behind the last dimension (`last` = 1) or the one before it, to whole tiles."""
    return F.pad(x, (0, 0) * (last - 1) + (0, -x.shape[-last] % FP8_BLOCK))


def _parts(x_MK: Tensor, groups: list[int] | None) -> list[Tensor]:
    """The rows of each expert that has any."""
    borders = groups if groups is not None else [0, len(x_MK)]
    return [x_MK[a:b] for a, b in pairwise(borders) if b > a]
