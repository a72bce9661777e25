"""What each number format of `ops.formats` means, in plain torch.

A packed matrix [rows, cols] is stored in tiles of 16 rows, the layout that the native kernels read
as it is (csrc/ling_kernels.h); these functions are the oracle that they are tested against. Weights
of a group of columns share a bfloat16 scale; codes of 4 or 3 bits point into 16 or 8 fixed levels.
FP8 is as released: E4M3 values and a float32 scale per block of 128 x 128.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .formats import FP8, FP8_BLOCK, TILE, Format
from .fp8 import quantise_fp8_block

# A group whose largest magnitude is below counts as zeros.
TINY = 1e-36


# Fixed point in which a weight, in units of its scale, meets the borders between two codes.
CODE_UNIT = 200


@dataclass(frozen=True)
class Packed:
    """One matrix, or a stack of them when `data` has a leading dimension.

    `data` uint8 [..., tiles, bytes per tile]; `scales` bfloat16 [..., tiles, groups, 16], float32
    [..., tiles, groups] for FP8, None for bf16.
    """

    format: Format
    rows: int
    cols: int
    data: Tensor
    scales: Tensor | None

    def __getitem__(self, i: int) -> Packed:
        scales = None if self.scales is None else self.scales[i]
        return Packed(self.format, self.rows, self.cols, self.data[i], scales)

    @property
    def nbytes(self) -> int:
        """Bytes of weights and scales."""
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)


def packed_shapes(
    fmt: Format, rows: int, cols: int
) -> tuple[tuple[int, int], tuple[int, ...] | None]:
    """Shapes of `data` and `scales` for a matrix [rows, cols]."""
    tiles, groups = -(-rows // TILE), -(-cols // fmt.group)
    data = (tiles, TILE * groups * fmt.group * fmt.value_bits // 8)
    if fmt.scale_dtype is None:
        return data, None
    return data, (tiles, groups) if fmt.scale_rows > 1 else (tiles, groups, TILE)


def packed_bytes(fmt: Format, rows: int, cols: int) -> int:
    """Bytes of `data` and `scales` for a matrix [rows, cols]."""
    data, scales = packed_shapes(fmt, rows, cols)
    return math.prod(data) + (math.prod(scales) * scale_dtype(fmt).itemsize if scales else 0)


def empty(fmt: Format, rows: int, cols: int, *lead: int) -> Packed:
    """Memory for a matrix, or with `lead` for a stack of that many."""
    data, scales = packed_shapes(fmt, rows, cols)
    return Packed(
        fmt,
        rows,
        cols,
        torch.empty((*lead, *data), dtype=torch.uint8),
        None if scales is None else torch.empty((*lead, *scales), dtype=scale_dtype(fmt)),
    )


def scale_dtype(fmt: Format) -> torch.dtype:
    """Of `Packed.scales`; for a format that has some."""
    assert fmt.scale_dtype is not None, fmt.name
    return getattr(torch, fmt.scale_dtype)


def interleave(gate_FD: Tensor, up_FD: Tensor) -> Tensor:
    """Rows of both in alternating tiles of 16."""
    both = torch.stack((gate_FD.unflatten(0, (-1, TILE)), up_FD.unflatten(0, (-1, TILE))), dim=1)
    return both.flatten(0, 2)


def separate(both_ND: Tensor) -> list[Tensor]:
    """Undo `interleave`: [gate, up]."""
    tiles = both_ND.unflatten(0, (-1, 2, TILE))
    return [tiles[:, i].flatten(0, 1) for i in (0, 1)]


def side_by_side(y_TN: Tensor) -> Tensor:
    """Columns of a product with `interleave`d matrices: those of the first, then of the second."""
    return y_TN.unflatten(1, (-1, 2, TILE)).transpose(1, 2).flatten(1)


def in_turn(y_TN: Tensor) -> Tensor:
    """Undo `side_by_side`."""
    return y_TN.unflatten(1, (2, -1, TILE)).transpose(1, 2).flatten(1)


def quantise(
    w_NK: Tensor, fmt: Format, importance_K: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes_NK (int64: level numbers for `levels`, -127..127 for `int8`) and scales [N, groups]
    (bfloat16).

    The scale of levels minimises the squared error, weighed per column by `importance_K`, over a
    grid of clips with a least-squares refit of each; the search sees weights in 8 bits. A group
    that is not finite gets a NaN scale.
    """
    K = w_NK.shape[1]
    w = F.pad(w_NK.float(), (0, -K % fmt.group)).unflatten(-1, (-1, fmt.group))
    amax = largest(w)
    to_codes = _to_levels if fmt.levels else _to_int8
    codes, scale = to_codes(w, amax, fmt, importance_K)
    scale = torch.where(amax.isnan(), float("nan"), scale)
    return codes.flatten(-2)[:, :K], scale


def _to_int8(
    w_NGB: Tensor, amax_NG: Tensor, fmt: Format, importance_K: Tensor | None
) -> tuple[Tensor, Tensor]:
    scale = (amax_NG / 127).to(torch.bfloat16)
    inverse = torch.where(scale > 0, 1 / scale.float(), 0.0)
    codes = (w_NGB * inverse[..., None]).nan_to_num(0, 0, 0).round().clamp(-127, 127)
    return codes.long(), scale


def _to_levels(
    w_NGB: Tensor, amax_NG: Tensor, fmt: Format, importance_K: Tensor | None
) -> tuple[Tensor, Tensor]:
    scale = _best_scale(w_NGB, amax_NG, fmt, importance_K).to(torch.bfloat16)
    inverse = torch.where((scale != 0) & ~scale.isnan(), 1 / scale.float(), 0.0)
    return nearest_levels((w_NGB * inverse[..., None]).nan_to_num(0, 0, 0), fmt), scale


def nearest_levels(x: Tensor, fmt: Format) -> Tensor:
    """Codes (int64) of finite values in units of their scale."""
    borders = _borders(fmt) * (CODE_UNIT // 2)
    return torch.bucketize((x * CODE_UNIT).round(), borders, right=True)


def largest(x: Tensor) -> Tensor:
    """Largest magnitude of each group: NaN where a value is not finite, 0 where reciprocals are
    not.
    """
    amax = torch.where(x.isfinite().all(-1), x.abs().amax(-1), float("nan"))
    return torch.where(amax < TINY, 0.0, amax)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes and float32 scales of the last dimension: the largest magnitude over 127.

    A row that is not finite has a NaN scale and codes of zero.
    """
    amax = largest(x.float())
    # Not `127 / amax`: torch makes that a reciprocal and a product, which rounds twice.
    inverse = torch.where(amax > 0, torch.full_like(amax, 127) / amax, 0.0)
    codes = (x.float() * inverse[..., None]).nan_to_num(0, 0, 0).round().clamp(-127, 127)
    return codes.to(torch.int8), amax / 127


def _borders(fmt: Format) -> Tensor:
    """Twice the borders between neighbouring levels: whole numbers."""
    levels = torch.tensor(fmt.levels)
    return levels[1:] + levels[:-1]


def _best_scale(w_NGB: Tensor, amax_NG: Tensor, fmt: Format, importance_K: Tensor | None) -> Tensor:
    levels, borders = torch.tensor(fmt.levels, dtype=torch.float32), _borders(fmt)
    h = torch.ones(1)
    if importance_K is not None:
        h = F.pad(importance_K.float(), (0, w_NGB.shape[1] * w_NGB.shape[2] - len(importance_K)))
        h = h.unflatten(0, w_NGB.shape[1:])
    sign = torch.where(-w_NGB.amin(-1) >= w_NGB.amax(-1), -1.0, 1.0)
    unit = sign * amax_NG
    # The search sees weights in 8 bits, the largest of each group as 127.
    inverse = torch.where(amax_NG > 0, torch.full_like(unit, 127) / unit, 0.0)
    x = (w_NGB * inverse[..., None]).nan_to_num(0, 0, 0).round()
    best, scale = torch.full_like(amax_NG, -1), torch.zeros_like(amax_NG)
    for clip in fmt.clips:
        q = levels[torch.bucketize(2 * clip * x, 127 * borders, right=True)]
        num, den = (h * q * x).sum(-1), (h * q * q).sum(-1)
        fit = num / den
        gain = num * fit
        # With most weight on small values a fit may be next to nothing, or NaN without any.
        better = (fit.abs() > 0.5) & (gain > best)
        best, scale = torch.where(better, gain, best), torch.where(better, fit, scale)
    return torch.where(amax_NG > 0, scale * (unit / 127), 0.0)


def pack(w_NK: Tensor, fmt: Format, importance_K: Tensor | None = None) -> Packed:
    """Quantise and lay out a matrix [N, K]."""
    return _CODECS[fmt.encoding].pack(w_NK, fmt, importance_K)


def unpack(p: Packed) -> Tensor:
    """float32 [rows, cols]."""
    if p.scales is None:
        return _bf16_values(p)
    values, scales = codes_and_scales(p)
    return (values.unflatten(-1, (-1, p.format.group)) * scales[..., None]).flatten(-2)[:, : p.cols]


def matmul(p: Packed, x_TK: Tensor) -> Tensor:
    """x_TK @ unpack(p).T as the kernels define it: float32 in and out.

    Integer formats quantise x per row and group to 8 bits, sum a group in exact integers, and add
    the groups in order; bfloat16 and FP8 round x to bfloat16. FP8 sums a block's exact values, then
    applies its scale.
    """
    return _CODECS[p.format.encoding].matmul(p, x_TK)


def codes_and_scales(p: Packed) -> tuple[Tensor, Tensor]:
    """Values_NK in units of their scale (float32, padded columns included) and scales_NG
    (float32).
    """
    assert p.scales is not None
    values = _CODECS[p.format.encoding].values(p)
    if p.format.scale_rows > 1:
        scales = p.scales.repeat_interleave(TILE, 0)
    else:
        scales = p.scales.transpose(1, 2).reshape(values.shape[0], -1).float()
    return values[: p.rows], scales[: p.rows]


# ---- bfloat16 ----------------------------------------------------------------------------------


def _pack_bf16(w_NK: Tensor, fmt: Format, importance_K: Tensor | None) -> Packed:
    N, K = w_NK.shape
    (tiles, size), _ = packed_shapes(fmt, N, K)
    w = F.pad(w_NK.to(torch.bfloat16), (0, K % 2, 0, -N % TILE))
    data = w.view(tiles, TILE, -1, 2).transpose(1, 2).contiguous()
    return Packed(fmt, N, K, data.view(torch.uint8).view(tiles, size), None)


def _bf16_values(p: Packed) -> Tensor:
    data = p.data.contiguous().view(torch.bfloat16).view(p.data.shape[0], -1, TILE, 2)
    return data.transpose(1, 2).reshape(p.data.shape[0] * TILE, -1)[: p.rows, : p.cols].float()


def _bf16_matmul(p: Packed, x_TK: Tensor) -> Tensor:
    return x_TK.to(torch.bfloat16).float() @ unpack(p).t()


# ---- FP8 ---------------------------------------------------------------------------------------


def _pack_e4m3(w_NK: Tensor, fmt: Format, importance_K: Tensor | None) -> Packed:
    return lay_out_fp8(*quantise_fp8_block(w_NK))


def lay_out_fp8(values_NK: Tensor, block_scales: Tensor) -> Packed:
    """FP8 as released (float8_e4m3fn, float32 scales by 128 x 128) in tiles, bytes as they are."""
    N, K = values_NK.shape
    (tiles, size), _ = packed_shapes(FP8, N, K)
    w = F.pad(values_NK.view(torch.uint8), (0, -K % FP8_BLOCK, 0, -N % TILE))
    # tile, four rows, row, four columns, half, column
    data = w.view(tiles, 4, 4, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(tiles, size)
    return Packed(FP8, N, K, data, block_scales[torch.arange(tiles) * TILE // FP8_BLOCK])


def _e4m3_values(p: Packed) -> Tensor:
    tiles = p.data.shape[0]
    data = p.data.view(tiles, -1, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5)
    return data.reshape(tiles * TILE, -1).view(torch.float8_e4m3fn).float()


def _e4m3_matmul(p: Packed, x_TK: Tensor) -> Tensor:
    values, scales_NG = codes_and_scales(p)
    x = F.pad(x_TK.to(torch.bfloat16), (0, values.shape[1] - x_TK.shape[1]))
    w, x = (y.float().unflatten(-1, (-1, p.format.group)) for y in (values, x))
    return (torch.einsum("tgk,ngk->tng", x, w) * scales_NG).sum(-1)


# ---- integers ----------------------------------------------------------------------------------


def _pack_integers(w_NK: Tensor, fmt: Format, importance_K: Tensor | None) -> Packed:
    N, K = w_NK.shape
    (tiles, size), _ = packed_shapes(fmt, N, K)
    codes, scale = quantise(w_NK, fmt, importance_K)
    zero = len(fmt.levels) // 2  # whatever a padded column has, it is multiplied by zeros
    codes = F.pad(codes, (0, -K % fmt.group, 0, -N % TILE), value=zero)
    scale = F.pad(scale, (0, 0, 0, -N % TILE))
    bytes_ = _INTEGER_BYTES[fmt.value_bits](codes, tiles)
    scales = scale.view(tiles, TILE, -1).transpose(1, 2).contiguous()
    return Packed(fmt, N, K, bytes_.reshape(tiles, size), scales)


def _int4_bytes(codes: Tensor, tiles: int) -> Tensor:
    c = codes.view(tiles, TILE, -1, 2, 4).permute(0, 2, 1, 4, 3)  # tile, block, row, byte, half
    return (c[..., 0] | c[..., 1] << 4).to(torch.uint8)


def _int3_bytes(codes: Tensor, tiles: int) -> Tensor:
    """Of 32 columns two planes of the codes' lower two bits, and one of their highest: columns are
    8 (2 plane + odd) + 4 half + byte.
    """
    c = codes.view(tiles, TILE, -1, 2, 2, 2, 4).permute(0, 2, 3, 4, 5, 1, 6)
    odd, half = torch.tensor([[0], [1]]), torch.tensor([0, 1])
    low = ((c & 3) << (4 * half + 2 * odd)[..., None, None]).sum((3, 4))
    plane = torch.tensor([0, 1])[:, None, None]
    high = ((c >> 2) << (4 * half + 2 * plane + odd)[..., None, None]).sum((2, 3, 4))
    return torch.cat((low, high[:, :, None]), 2).to(torch.uint8)


def _int8_bytes(codes: Tensor, tiles: int) -> Tensor:
    return (codes + 128).to(torch.uint8).view(tiles, TILE, -1, 4).transpose(1, 2)


_INTEGER_BYTES = {3: _int3_bytes, 4: _int4_bytes, 8: _int8_bytes}


def _level_values(p: Packed) -> Tensor:
    codes = _int3_codes(p.data) if p.format.value_bits == 3 else _int4_codes(p.data)
    levels = torch.tensor(p.format.levels, dtype=torch.float32)
    return levels[codes.long()].reshape(p.data.shape[0] * TILE, -1)


def _int4_codes(data: Tensor) -> Tensor:
    data = data.view(len(data), -1, TILE, 4)
    halves = torch.stack((data & 15, data >> 4), dim=3)  # tile, block, row, half, byte
    return halves.permute(0, 2, 1, 3, 4)


def _int3_codes(data: Tensor) -> Tensor:
    planes = data.view(len(data), -1, 3, TILE, 4)  # tile, block, plane, row, byte
    parts = []
    for i in range(8):  # of four columns
        pair, half = i // 2, i % 2
        low = planes[:, :, pair // 2] >> 4 * half + 2 * (pair % 2) & 3
        high = planes[:, :, 2] >> 4 * half + pair & 1
        parts.append(low | high << 2)
    return torch.stack(parts, dim=3).permute(0, 2, 1, 3, 4)  # tile, row, block, part, byte


def _int8_values(p: Packed) -> Tensor:
    tiles = p.data.shape[0]
    data = p.data.view(tiles, -1, TILE, 4).transpose(1, 2).reshape(tiles * TILE, -1)
    return data.float() - 128


def _integer_matmul(p: Packed, x_TK: Tensor) -> Tensor:
    values, scales_NG = codes_and_scales(p)
    x = F.pad(x_TK.float(), (0, values.shape[1] - x_TK.shape[1])).unflatten(
        -1, (-1, p.format.group)
    )
    q, scales_TG = quantise_rows(x)
    w = values.unflatten(-1, (-1, p.format.group))
    sums_TNG = torch.einsum("tgk,ngk->tng", q.double(), w.double()).float()  # exact in float64
    out = torch.zeros(len(x), p.rows)
    for g in range(w.shape[1]):
        factor = scales_NG[None, :, g] * scales_TG[:, g, None]
        out = (sums_TNG[..., g].double() * factor.double() + out.double()).float()
    return out


class _Codec(NamedTuple):
    """What an encoding is: a matrix packed, its values in units of their scales, its product."""

    pack: Callable[[Tensor, Format, Tensor | None], Packed]
    values: Callable[[Packed], Tensor]
    matmul: Callable[[Packed, Tensor], Tensor]


_CODECS = {
    "levels": _Codec(_pack_integers, _level_values, _integer_matmul),
    "int8": _Codec(_pack_integers, _int8_values, _integer_matmul),
    "bf16": _Codec(_pack_bf16, _bf16_values, _bf16_matmul),
    "e4m3": _Codec(_pack_e4m3, _e4m3_values, _e4m3_matmul),
}
