"""Norm and rotation of `ops.reference` with backward passes written by hand.

Autograd walks every intermediate back one small operation at a time. Forward results are those of
the reference, bit for bit.
Legend: T tokens · H heads · K head dim · R rotary channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import native_layers, reference


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return reference.rms_norm(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (dy,) = grads
        if native_layers.has_norm_gradient(x, weight, dy):
            dx, dw = native_layers.rms_norm_gradient(x, weight, dy, ctx.eps)
            return dx, dw, None
        h, dy = x.float(), dy.float()
        scale = torch.rsqrt(h.square().mean(-1, keepdim=True) + ctx.eps)
        h = h * scale
        both = dy * h
        mean = (both @ weight.float())[..., None] / h.shape[-1]
        dx = (dy * weight.float()).addcmul_(h, mean, value=-1).mul_(scale)
        return dx.to(x.dtype), both.flatten(0, -2).sum(0).to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Differentiable `reference.rms_norm`."""
    return (
        _RMSNorm.apply(x, weight, eps) if _wanted(x, weight) else reference.rms_norm(x, weight, eps)
    )


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TR, sin_TR)
        return _rotated(x_THK, cos_TR, sin_TR)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos_TR, sin_TR = ctx.saved_tensors
        # The transpose of a rotation turns back.
        return _rotated(grads[0], cos_TR, sin_TR, back=True), None, None


def _rotated(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, back: bool = False) -> Tensor:
    if native_layers.has_kernel(x_THK, cos_TR, sin_TR):
        return native_layers.rotate(x_THK, cos_TR, sin_TR, back=back)
    sin_TR = -sin_TR if back else sin_TR
    half = cos_TR.shape[-1] // 2
    cos, sin = cos_TR[:, None, :half], sin_TR[:, None, :half]
    low, high = x_THK[..., :half], x_THK[..., half : 2 * half]
    out_THK = torch.empty_like(x_THK, memory_format=torch.contiguous_format)
    torch.mul(low, cos, out=out_THK[..., :half]).sub_(high * sin)
    torch.mul(high, cos, out=out_THK[..., half : 2 * half]).add_(low * sin)
    out_THK[..., 2 * half :] = x_THK[..., 2 * half :]
    return out_THK


def rotate(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Differentiable `reference.rotate`; the tables repeat their first half."""
    return (
        _Rotate.apply(x_THK, cos_TR, sin_TR)
        if _wanted(x_THK)
        else reference.rotate(x_THK, cos_TR, sin_TR)
    )


def _wanted(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
