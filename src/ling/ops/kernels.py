"""The operations on packed weights: native where the library is built and reads the format, else
their definition in `ops.packing`. Nobody else asks which of the two there is.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from . import native, packing
from .formats import FP8, Format
from .fp8 import dequantise_fp8_block, quantise_fp8_block
from .packing import Packed, empty, interleave


class Kernels(Protocol):
    """One implementation of the operations; both modules below have these functions."""

    def pack(
        self,
        w_NK: Tensor,
        fmt: Format,
        importance_K: Tensor | None = None,
        out: Packed | None = None,
    ) -> Packed: ...

    def pack_pair(
        self, a_NK: Tensor, b_NK: Tensor, importance_K: Tensor | None = None, *, out: Packed
    ) -> None: ...

    def lay_out_fp8(
        self, values_NK: Tensor, block_scales: Tensor, out: Packed, part: int = 0, parts: int = 1
    ) -> None: ...

    def widen_fp8(self, q_MN: Tensor, scale: Tensor) -> Tensor: ...

    def unpack(self, p: Packed) -> Tensor: ...

    def matmul(self, p: Packed, x_TK: Tensor) -> Tensor: ...


class Reference:
    """The definition in `ops.packing`, with the kernels' way of writing into given memory."""

    def pack(
        self,
        w_NK: Tensor,
        fmt: Format,
        importance_K: Tensor | None = None,
        out: Packed | None = None,
    ) -> Packed:
        packed = packing.pack(w_NK, fmt, importance_K)
        return packed if out is None else _copy(packed, out)

    def pack_pair(
        self, a_NK: Tensor, b_NK: Tensor, importance_K: Tensor | None = None, *, out: Packed
    ) -> None:
        _copy(packing.pack(interleave(a_NK, b_NK), out.format, importance_K), out)

    def lay_out_fp8(
        self, values_NK: Tensor, block_scales: Tensor, out: Packed, part: int = 0, parts: int = 1
    ) -> None:
        _copy(packing.lay_out_fp8(values_NK, block_scales), out, slice(part, None, parts))

    def widen_fp8(self, q_MN: Tensor, scale: Tensor) -> Tensor:
        return dequantise_fp8_block(q_MN, scale).to(torch.bfloat16)

    def unpack(self, p: Packed) -> Tensor:
        return packing.unpack(p)

    def matmul(self, p: Packed, x_TK: Tensor) -> Tensor:
        return packing.matmul(p, x_TK)


_REFERENCE = Reference()


def kernels_for(fmt: Format) -> Kernels:
    """What packs, unpacks and multiplies matrices of a format."""
    return _REFERENCE if why_no_kernels(fmt) else native


def why_no_kernels(fmt: Format) -> str | None:
    """None if native kernels read the format, else the reason."""
    if native.library() is None:
        return "the kernel library is not built (no C++ compiler at install)"
    return None if fmt.kernel is not None else f"no kernel reads the format `{fmt.name}`"


def widen_fp8(q_MN: Tensor, scale: Tensor) -> Tensor:
    """`fp8.dequantise_fp8_block`, rounded to bfloat16."""
    return kernels_for(FP8).widen_fp8(q_MN, scale)


def lay_out_fp8(parts: list[tuple[Tensor, Tensor]], out: Packed) -> None:
    """FP8 matrices (values, block scales) with their tiles in turn, bytes as they are."""
    for i, (values, scales) in enumerate(parts):
        kernels_for(FP8).lay_out_fp8(values, scales, out, i, len(parts))


def pack(parts: list[Tensor], out: Packed, importance_K: Tensor | None = None) -> None:
    """One matrix, or two with their tiles in turn, into `out`."""
    parts = [_packable(p) for p in parts]
    if out.format.scale_rows > 1:
        # Blocks are those of each tensor, as in a released checkpoint.
        lay_out_fp8([quantise_fp8_block(p) for p in parts], out)
        return
    if len({p.dtype for p in parts}) > 1:
        parts = [p.float() for p in parts]
    chosen = kernels_for(out.format)
    if len(parts) == 1:
        chosen.pack(parts[0], out.format, importance_K, out)
    else:
        chosen.pack_pair(parts[0], parts[1], importance_K, out=out)


def packed(w_NK: Tensor, fmt: Format) -> Packed:
    """`pack` of one matrix into new memory."""
    out = empty(fmt, *w_NK.shape)
    pack([w_NK], out)
    return out


def unpack(p: Packed) -> Tensor:
    """float32 [rows, cols]."""
    return kernels_for(p.format).unpack(p)


def _packable(w: Tensor) -> Tensor:
    return w if w.dtype in (torch.float32, torch.bfloat16) else w.float()


def _copy(packed: Packed, out: Packed, tiles: slice = slice(None)) -> Packed:
    out.data[tiles] = packed.data
    if out.scales is not None and packed.scales is not None:
        out.scales[tiles] = packed.scales
    return out
