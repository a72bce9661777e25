"""Packing matrices from their Hugging Face tensors, and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...ops import kernels
from ...ops.formats import EMBEDDING_INT8, FP8, TILE, Format
from ...ops.packing import Packed, empty, separate
from ..hf.layouts import FP8Layout
from ..hf.names import SCALE
from .names import PackedSpec

EMBEDDING_ROWS = 2048


def empty_matrix(spec: PackedSpec, fmt: Format) -> Packed:
    """Memory for a matrix or a stack in format `fmt`."""
    return empty(fmt, spec.rows, spec.cols, *((spec.experts,) if spec.experts else ()))


def pack_matrix(spec: PackedSpec, fmt: Format, tensor: Callable[[str], Tensor]) -> Packed:
    """Pack a matrix or a stack, reading its tensors one by one."""
    own = fmt.of_matrix(spec.name)
    out = empty_matrix(spec, own)
    for e in range(max(spec.experts, 1)):
        one = out[e] if spec.experts else out
        if own is FP8:
            kernels.lay_out_fp8([_fp8(name, tensor(name)) for name in spec.parts(e)], one)
        else:
            kernels.pack([tensor(name) for name in spec.parts(e)], one)
    return out


def _fp8(name: str, value: Tensor) -> tuple[Tensor, Tensor]:
    """Values and scales as a converted FP8 folder has them: both give the same tokens."""
    stored = FP8Layout(torch.bfloat16).encode(name, value)
    return stored[name], stored[name + SCALE]


def unpack_matrix(spec: PackedSpec, packed: Packed, expert: int = 0) -> list[Tensor]:
    """The Hugging Face tensors (float32) of one matrix, in the order of `spec.parts`."""
    w = kernels.unpack(packed[expert] if spec.experts else packed)
    return [w] if len(spec.sources) == 1 else separate(w)


def pack_embedding(w_VD: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [V, D] and bfloat16 scales [V, D / 32], each row by itself."""
    q_VD = torch.empty(w_VD.shape, dtype=torch.int8)
    groups = w_VD.shape[1] // EMBEDDING_INT8.group
    scales = torch.empty(len(w_VD), groups, dtype=torch.bfloat16)
    # Rows at a time: quantising takes ten times a matrix, and this is the largest of all.
    for i in range(0, len(w_VD), EMBEDDING_ROWS):
        rows = w_VD[i : i + EMBEDDING_ROWS]
        at, packed = slice(i, i + len(rows)), kernels.packed(rows, EMBEDDING_INT8)
        assert packed.scales is not None
        # Four columns of a row at a time, as one integer.
        turned = packed.data.view(torch.int32).unflatten(-1, (-1, TILE)).transpose(1, 2)
        q = turned.flatten(0, 1)[: len(rows)].contiguous().view(torch.uint8)
        q_VD[at] = q.bitwise_xor_(0x80).view(torch.int8)
        scales[at] = packed.scales.transpose(1, 2).flatten(0, 1)[: len(rows)]
    return q_VD, scales


def unpack_embedding(q_VD: Tensor, scales: Tensor) -> Tensor:
    """float32 [V, D]."""
    grouped = q_VD.float().unflatten(-1, (-1, EMBEDDING_INT8.group))
    return grouped.mul_(scales.float()[..., None]).flatten(-2)
