"""Packing matrices from their Hugging Face tensors, and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...ops import native, packing
from ...ops.formats import TILE, Format
from ...ops.fp8 import quantise_fp8_block
from ...ops.packing import Packed
from .names import (
    EMBEDDING_GROUP,
    PackedSpec,
    format_in,
)

EMBEDDING_ROWS = 2048


def interleave(gate_FD: Tensor, up_FD: Tensor) -> Tensor:
    """Rows of both in alternating tiles of 16."""
    both = torch.stack((gate_FD.unflatten(0, (-1, TILE)), up_FD.unflatten(0, (-1, TILE))), dim=1)
    return both.flatten(0, 2)


def separate(both_ND: Tensor) -> list[Tensor]:
    """Undo `interleave`: [gate, up]."""
    tiles = both_ND.unflatten(0, (-1, 2, TILE))
    return [tiles[:, i].flatten(0, 1) for i in (0, 1)]


def empty(spec: PackedSpec, fmt: Format) -> Packed:
    """Room for a matrix or a stack in format `fmt`."""
    data, scales = packing.packed_shapes(fmt, spec.rows, spec.cols)
    lead = (spec.experts,) if spec.experts else ()
    return Packed(
        fmt,
        spec.rows,
        spec.cols,
        torch.empty((*lead, *data), dtype=torch.uint8),
        None if scales is None else torch.empty((*lead, *scales), dtype=fmt.scale_dtype),
    )


def fill(out: Packed, parts: list[Tensor], importance_K: Tensor | None = None) -> None:
    """Pack one matrix from its Hugging Face tensors into `out`."""
    if out.format.kind == 4:
        # Blocks are those of each tensor, as in a released checkpoint.
        fill_fp8(out, [quantise_fp8_block(_packable(part)) for part in parts])
        return
    parts = [_packable(p) for p in parts]
    if len({p.dtype for p in parts}) > 1:
        parts = [p.float() for p in parts]
    if native.library() is None:
        w = parts[0] if len(parts) == 1 else interleave(*parts)
        packed = packing.pack(w, out.format, importance_K)
        out.data.copy_(packed.data)
        if out.scales is not None and packed.scales is not None:
            out.scales.copy_(packed.scales)
    elif len(parts) == 1:
        native.pack(parts[0], out.format, importance_K, out)
    else:
        native.pack_pair(parts[0], parts[1], importance_K, out=out)


def fill_fp8(out: Packed, parts: list[tuple[Tensor, Tensor]]) -> None:
    """Lay out one matrix from its FP8 tensors (values, block scales), bytes as they are."""
    for i, (values, scales) in enumerate(parts):
        if native.library() is not None:
            native.lay_out_fp8(values, scales, out, i, len(parts))
            continue
        packed = packing.lay_out_fp8(values, scales)
        assert out.scales is not None
        assert packed.scales is not None
        out.data[i :: len(parts)] = packed.data
        out.scales[i :: len(parts)] = packed.scales


def _packable(w: Tensor) -> Tensor:
    return w if w.dtype in (torch.float32, torch.bfloat16) else w.float()


def pack_matrix(spec: PackedSpec, fmt: Format, tensor: Callable[[str], Tensor]) -> Packed:
    """Pack a matrix or a stack, reading its tensors one by one."""
    out = empty(spec, format_in(fmt, spec))
    for e in range(max(spec.experts, 1)):
        fill(out[e] if spec.experts else out, [tensor(name) for name in spec.parts(e)])
    return out


def unpack_matrix(spec: PackedSpec, packed: Packed, expert: int = 0) -> list[Tensor]:
    """The Hugging Face tensors (float32) of one matrix, in the order of `spec.parts`."""
    one = packed[expert] if spec.experts else packed
    w = packing.unpack(one) if native.library() is None else native.unpack(one)
    return [w] if len(spec.sources) == 1 else separate(w)


def pack_embedding(w_VD: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [V, D] and bfloat16 scales [V, D / 32], each row by itself."""
    fmt = Format("embedding", 2, EMBEDDING_GROUP, 8.5, 0.01)
    q_VD = torch.empty(w_VD.shape, dtype=torch.int8)
    scales = torch.empty(len(w_VD), w_VD.shape[1] // EMBEDDING_GROUP, dtype=torch.bfloat16)
    pack = packing.pack if native.library() is None else native.pack
    # Rows at a time: quantising takes ten times a matrix, and this is the largest of all.
    for i in range(0, len(w_VD), EMBEDDING_ROWS):
        rows = _packable(w_VD[i : i + EMBEDDING_ROWS])
        at, packed = slice(i, i + len(rows)), pack(rows, fmt)
        assert packed.scales is not None
        # Four columns of a row at a time, as one integer.
        turned = packed.data.view(torch.int32).unflatten(-1, (-1, TILE)).transpose(1, 2)
        q = turned.flatten(0, 1)[: len(rows)].contiguous().view(torch.uint8)
        q_VD[at] = q.bitwise_xor_(0x80).view(torch.int8)
        scales[at] = packed.scales.transpose(1, 2).flatten(0, 1)[: len(rows)]
    return q_VD, scales


def unpack_embedding(q_VD: Tensor, scales: Tensor) -> Tensor:
    """float32 [V, D]."""
    grouped = q_VD.float().unflatten(-1, (-1, EMBEDDING_GROUP))
    return grouped.mul_(scales.float()[..., None]).flatten(-2)
