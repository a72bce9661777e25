"""ctypes binding of `csrc/train_moe.cpp`: a mixture of experts in training, in float32 on a CPU.

Legend: T tokens · A experts per token · N = T·A routed rows · R rows, sorted by expert, with
padding · E experts · D hidden · F expert width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_int64, c_void_p

import torch
from torch import Tensor

from ..errors import KernelError
from . import native

STEP = 16
"""Hidden sizes and widths of experts are multiples of it."""
MANY_EXPERTS = 16
"""From here on experts are tasks of their own: fewer would leave cores without work."""
SMALL_EXPERT = 1 << 14
"""Values of one matrix of an expert up to which the kernel is faster than calls of torch's
products: its three matrices stay in a core's own cache."""


class ExpertsC(Structure):
    """`ling_experts`."""

    _fields_ = (
        *((n, c_int64) for n in ("count", "hidden", "width")),
        *((n, c_void_p) for n in ("ends", "x", "gate", "up", "down", "gu", "y")),
    )


class CombineC(Structure):
    """`ling_combine`."""

    _fields_ = (
        *((n, c_int64) for n in ("tokens", "each", "hidden", "rows")),
        *((n, c_void_p) for n in ("slots", "y", "weights", "out")),
    )


def has_small_experts(x_RD: Tensor, *weights: Tensor) -> bool:
    """Whether `swiglu` takes these rows and weights, and is faster than torch's products."""
    count, width, hidden = weights[0].shape
    return (
        count >= MANY_EXPERTS
        and width * hidden <= SMALL_EXPERT
        and width % STEP == hidden % STEP == 0
        and native.reads_float32(x_RD, *weights)
        and native.isa() != "generic"
    )


def top_k(scores: Tensor, k: int) -> Tensor:
    """`reference.top_k_lowest_id`."""
    lib, n = native.required(), scores.shape[-1]
    if not native.reads_float32(scores):
        raise KernelError("scores must be float32 on the CPU")
    scores = scores.contiguous()
    ids = torch.empty((*scores.shape[:-1], k), dtype=torch.int64, device="cpu")
    rows = scores.numel() // n
    native.check(lib, lib.ling_top_k(scores.data_ptr(), rows, n, k, ids.data_ptr()))
    return ids


def sorted_rows(ids_N: Tensor, starts_E: Tensor) -> Tensor:
    """slot_N: rows of id e begin at `starts_E[e]`, in the order of `ids_N`."""
    lib, ids, starts = native.required(), ids_N.contiguous(), starts_E.contiguous()
    if ids.dtype != torch.int64 or starts.dtype != torch.int64:
        raise KernelError(f"ids and starts are int64, not {ids.dtype} and {starts.dtype}")
    slot_N = torch.empty_like(ids)
    pointers = (ids.data_ptr(), len(ids), starts.data_ptr(), len(starts), slot_N.data_ptr())
    native.check(lib, lib.ling_sorted_rows(*pointers))
    return slot_N


def swiglu(
    x_RD: Tensor, offsets: list[int], gate_EFD: Tensor, up_EFD: Tensor, down_EDF: Tensor
) -> tuple[Tensor, Tensor]:
    """(y_RD, gu_R2F): SwiGLU of each expert on its rows, and what `swiglu_gradient` needs of it."""
    R, D = x_RD.shape
    y_RD, gu_R2F = native.new(R, D), native.new(R, 2 * gate_EFD.shape[1])
    lib, kept = native.required(), _Kept(x_RD, offsets, gu_R2F, gate_EFD, up_EFD, down_EDF)
    kept.c.y = y_RD.data_ptr()
    native.check(lib, lib.ling_experts_forward(ctypes.byref(kept.c)))
    return y_RD, gu_R2F


def swiglu_gradient(
    x_RD: Tensor,
    offsets: list[int],
    gu_R2F: Tensor,
    weights: Sequence[Tensor],
    dy_RD: Tensor,
    *,
    wanted: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, gate, up and down from that of y; of x alone unless they are `wanted`."""
    dy_RD = dy_RD.contiguous()
    if dy_RD.shape != x_RD.shape or not native.reads_float32(dy_RD):
        raise KernelError(f"rows of {list(x_RD.shape)} have gradients of {list(dy_RD.shape)}")
    dx_RD = native.new(*dy_RD.shape)
    made = [native.new(*w.shape) if wanted else None for w in weights]
    lib, kept = native.required(), _Kept(x_RD, offsets, gu_R2F, *weights)
    pointers = (None if w is None else w.data_ptr() for w in made)
    native.check(
        lib,
        lib.ling_experts_gradient(
            ctypes.byref(kept.c), dy_RD.data_ptr(), dx_RD.data_ptr(), *pointers
        ),
    )
    return (dx_RD, *made)


def combine(y_RD: Tensor, slot_N: Tensor, weights_TA: Tensor) -> Tensor:
    """out_TD: the weighted sum of each token's rows."""
    out_TD = native.new(len(weights_TA), y_RD.shape[1])
    lib, kept = native.required(), _Rows(y_RD, slot_N, weights_TA)
    kept.c.out = out_TD.data_ptr()
    native.check(lib, lib.ling_combine_rows(ctypes.byref(kept.c)))
    return out_TD


def combine_gradient(
    y_RD: Tensor, slot_N: Tensor, weights_TA: Tensor, dout_TD: Tensor
) -> tuple[Tensor, Tensor]:
    """(dy_RD, dweights_TA): 0 for rows that are no token's."""
    dout_TD = dout_TD.contiguous()
    wanted = (len(weights_TA), y_RD.shape[1])
    if dout_TD.shape != wanted or not native.reads_float32(dout_TD):
        raise KernelError(f"sums of {list(wanted)} have gradients of {list(dout_TD.shape)}")
    dy_RD, dweights_TA = native.new(*y_RD.shape), native.new(*weights_TA.shape)
    lib, kept = native.required(), _Rows(y_RD, slot_N, weights_TA)
    pointers = (x.data_ptr() for x in (dout_TD, dy_RD, dweights_TA))
    native.check(lib, lib.ling_combine_gradient(ctypes.byref(kept.c), *pointers))
    return dy_RD, dweights_TA


class _Kept:
    """The struct of an experts' call, and the tensors that it points to."""

    def __init__(self, x_RD: Tensor, offsets: list[int], gu_R2F: Tensor, *weights: Tensor) -> None:
        (E, F, D), R = weights[0].shape, len(x_RD)
        if offsets[-1] != R or len(offsets) != E + 1:
            raise KernelError(f"{R} rows of {E} experts have borders that end at {offsets[-1]}")
        shapes = [tuple(t.shape) for t in (x_RD, gu_R2F, *weights)]
        if shapes != [(R, D), (R, 2 * F), (E, F, D), (E, F, D), (E, D, F)]:
            raise KernelError(f"rows and experts have shapes {shapes}")
        if not native.reads_float32(x_RD, gu_R2F, *weights):
            raise KernelError("experts take float32 on the CPU")
        self.ends = torch.tensor(offsets, dtype=torch.int64)
        self.tensors = [t.contiguous() for t in (x_RD, *weights, gu_R2F)]
        self.c = ExpertsC(E, D, F, self.ends.data_ptr(), *(t.data_ptr() for t in self.tensors))


class _Rows:
    """The struct of a combination, and the tensors that it points to."""

    def __init__(self, y_RD: Tensor, slot_N: Tensor, weights_TA: Tensor) -> None:
        T, A = weights_TA.shape
        if slot_N.shape != (T * A,) or slot_N.dtype != torch.int64:
            raise KernelError(f"{T * A} rows have slots of {list(slot_N.shape)}")
        if not native.reads(slot_N) or not native.reads_float32(y_RD, weights_TA):
            raise KernelError("sums of rows take float32 on the CPU")
        self.tensors = [t.contiguous() for t in (slot_N, y_RD, weights_TA)]
        pointers = (t.data_ptr() for t in self.tensors)
        self.c = CombineC(T, A, y_RD.shape[1], len(y_RD), *pointers)
