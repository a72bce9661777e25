"""The operations on packed weights: native where the library is built and reads the format, else
their definition in `ops.packing`. Nobody else asks which of the two there is.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from . import native, packing
from .formats import FP8, Format
from .fp8 import dequantise_fp8_block, quantise_fp8_block
from .packing import Packed, empty, interleave


def why_no_kernels(fmt: Format) -> str | None:
    """None if native kernels read the format, else the reason."""
    if native.library() is None:
        return "the kernel library is not built (no C++ compiler at install)"
    return None if fmt.kernel is not None else f"no kernel reads the format `{fmt.name}`"


def pack(parts: list[Tensor], out: Packed, importance_K: Tensor | None = None) -> None:
    """One matrix, or two with their tiles in turn, into `out`."""
    fmt, parts = out.format, [_packable(p) for p in parts]
    if fmt.scale_rows > 1:
        # Blocks are those of each tensor, as in a released checkpoint.
        lay_out_fp8([quantise_fp8_block(p) for p in parts], out)
        return
    if len({p.dtype for p in parts}) > 1:
        parts = [p.float() for p in parts]
    if why_no_kernels(fmt):
        w_NK = parts[0] if len(parts) == 1 else interleave(*parts)
        _copy(packing.pack(w_NK, fmt, importance_K), out)
    elif len(parts) == 1:
        native.pack(parts[0], fmt, importance_K, out)
    else:
        native.pack_pair(parts[0], parts[1], importance_K, out=out)


def packed(w_NK: Tensor, fmt: Format) -> Packed:
    """`pack` of one matrix into new memory."""
    out = empty(fmt, *w_NK.shape)
    pack([w_NK], out)
    return out


def lay_out_fp8(parts: list[tuple[Tensor, Tensor]], out: Packed) -> None:
    """FP8 matrices (values, block scales) with their tiles in turn, bytes as they are."""
    for i, (values, scales) in enumerate(parts):
        if why_no_kernels(FP8):
            _copy(packing.lay_out_fp8(values, scales), out, slice(i, None, len(parts)))
        else:
            native.lay_out_fp8(values, scales, out, i, len(parts))


def unpack(p: Packed) -> Tensor:
    """float32 [rows, cols]."""
    return packing.unpack(p) if why_no_kernels(p.format) else native.unpack(p)


def unpack_bf16(p: Packed, out: Tensor | None = None) -> Tensor:
    """`unpack`, rounded to bfloat16; into `out` [rows, cols] when given."""
    if not why_no_kernels(p.format):
        return native.unpack_bf16(p, out)
    w_NK = packing.unpack(p).to(torch.bfloat16)
    return w_NK if out is None else out.copy_(w_NK)


def matmul(p: Packed, x_TK: Tensor) -> Tensor:
    """float32 x_TK @ unpack(p).T as `packing.matmul` defines it, float32."""
    return packing.matmul(p, x_TK) if why_no_kernels(p.format) else native.matmul(p, x_TK)


def matmul_bf16(p: Packed, x_RK: Tensor, ends: list[int], *, pairs: bool = False) -> Tensor:
    """bfloat16 y_RN: rows [ends[e], ends[e + 1]) of x times matrix e of a stack, or the one matrix.

    `matmul` of the same rows, rounded; with `pairs` the columns of two matrices whose tiles take
    turns (`packing.interleave`) are side by side.
    """
    if not why_no_kernels(p.format):
        return native.matmul_bf16(p, x_RK, ends, pairs=pairs)
    y_RN = x_RK.new_empty((len(x_RK), p.rows))
    for e, (first, end) in enumerate(pairwise(ends)):
        one = p[e] if p.data.ndim == 3 else p
        y_RN[first:end] = packing.matmul(one, x_RK[first:end].float())
    return packing.side_by_side(y_RN) if pairs else y_RN


def widen_fp8(q_MN: Tensor, scale: Tensor) -> Tensor:
    """`fp8.dequantise_fp8_block`, rounded to bfloat16."""
    if why_no_kernels(FP8):
        return dequantise_fp8_block(q_MN, scale).to(torch.bfloat16)
    return native.widen_fp8(q_MN, scale)


def _packable(w: Tensor) -> Tensor:
    return w if w.dtype in (torch.float32, torch.bfloat16) else w.float()


def _copy(packed: Packed, out: Packed, tiles: slice = slice(None)) -> None:
    out.data[tiles] = packed.data
    if out.scales is not None and packed.scales is not None:
        out.scales[tiles] = packed.scales
