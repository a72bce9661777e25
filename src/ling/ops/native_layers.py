"""ctypes binding of `csrc/train_layers.cpp`: RMSNorm's gradient and rotary positions, in float32.

Legend: T tokens · H heads · K head dim · R rotary channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from . import native
from .native_causal import readable, token_stride

STEP = 16
"""Rows of `rms_norm_gradient` are multiples of it."""


def has_kernel(*tensors: Tensor) -> bool:
    """Whether these functions take such values, and nobody wants a gradient of their results."""
    return native.reads_float32(*tensors) and not torch.is_grad_enabled()


def has_norm_gradient(x: Tensor, weight: Tensor, dy: Tensor) -> bool:
    """Whether `rms_norm_gradient` takes these, and is faster than torch."""
    fits = x.shape[-1] % STEP == 0 and native.isa() != "generic"
    return fits and has_kernel(x, weight, dy)


def rms_norm_gradient(x: Tensor, weight: Tensor, dy: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(dx, dweight) of `reference.rms_norm` from the gradient of its result."""
    n, lib = x.shape[-1], native.required()
    if dy.shape != x.shape or weight.shape != (n,):
        raise KernelError(f"rows of {n} have gradients of {list(dy.shape)}")
    x, weight, dy = x.contiguous(), weight.contiguous(), dy.contiguous()
    if not native.reads_float32(x, weight, dy):
        raise KernelError("norms take float32 on the CPU")
    dx, dw = native.new(*x.shape), native.new(n)
    given = (t.data_ptr() for t in (x, weight, dy))
    made = (dx.data_ptr(), dw.data_ptr())
    native.check(lib, lib.ling_rms_norm_gradient(*given, x.numel() // n, n, eps, *made))
    return dx, dw


def rotate(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, *, back: bool) -> Tensor:
    """`reference.rotate`, bit for bit, or its inverse; the tables repeat their first half."""
    (T, H, K), lib, x = x_THK.shape, native.required(), readable(x_THK)
    if cos_TR.shape != sin_TR.shape or len(cos_TR) != T:
        raise KernelError(f"{T} tokens have tables of {list(cos_TR.shape)}")
    if not native.reads_float32(x, cos_TR, sin_TR):
        raise KernelError("rotations take float32 on the CPU")
    cos, sin, out_THK = cos_TR.contiguous(), sin_TR.contiguous(), native.new(T, H, K)
    R = cos.shape[1]
    native.check(
        lib,
        lib.ling_rotate_heads(
            x.data_ptr(),
            token_stride(x),
            *(cos.data_ptr(), sin.data_ptr(), R),
            *(T, H, K, R // 2),
            *(-1.0 if back else 1.0, out_THK.data_ptr()),
        ),
    )
    return out_THK
