"""Our GPU kernels where they work, else their definitions in torch: decided once for each device.

A kernel is used after it has agreed with its definition on the device itself, so that a compiler or
a GPU that cannot run it costs speed and no tokens.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ..text import one_line
from . import paged, reference, triton
from .fp8 import quantise_fp8_block, widen_blocks

log = logging.getLogger("ling")

TOLERANCE = 0.02
"""Of the check, in bfloat16, relative to the largest value."""


def paged_attention(
    q_BQHK: Tensor,
    k_PSGK: Tensor,
    v_PSGK: Tensor,
    table_BW: Tensor,
    positions_BQ: Tensor,
    lengths_B: Tensor,
) -> Tensor:
    """`ops.paged.paged_attention`, by the kernel where there is one."""
    K = q_BQHK.shape[-1]
    has_kernel = q_BQHK.is_cuda and K >= 16 and K & (K - 1) == 0 and _paged_works(q_BQHK.device)
    if not has_kernel:
        return paged.paged_attention(q_BQHK, k_PSGK, v_PSGK, table_BW, positions_BQ, lengths_B)
    from .triton.paged import paged_attention as kernel

    return kernel(q_BQHK, k_PSGK, v_PSGK, table_BW, positions_BQ, lengths_B)


def chosen_product(device: torch.device, *, fp8: bool) -> Callable[..., Tensor] | None:
    """`ops.triton.chosen.chosen_product` where it works, for plain weights or FP8; else None."""
    if device.type != "cuda" or not _chosen_works(device, fp8):
        return None
    from .triton.chosen import chosen_product as kernel

    return kernel


def weighted_sum(y_TAD: Tensor, weights_TA: Tensor) -> Tensor:
    """Each token's rows weighed and added over A in float32, then cast back: out_TD."""
    if y_TAD.is_cuda and _chosen_works(y_TAD.device, False):
        from .triton.chosen import weighted_sum as kernel

        return kernel(y_TAD, weights_TA)
    return _weighted_sum(y_TAD, weights_TA)


def _weighted_sum(y_TAD: Tensor, weights_TA: Tensor) -> Tensor:
    return (y_TAD.float() * weights_TA[..., None]).sum(1).to(y_TAD.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`ops.reference.rms_norm`, by the kernel where there is one."""
    if not (x.is_cuda and _norms_work(x.device)):
        return reference.rms_norm(x, weight, eps)
    from .triton.norms import rms_norm as kernel

    return kernel(x, weight, eps)


def norm_rotate(
    x_THK: Tensor,
    weights: tuple[Tensor, Tensor],
    split: int,
    eps: float,
    rope: tuple[Tensor, Tensor],
) -> Tensor:
    """Norm and rotation of heads: those before `split` (queries) have the first weight, the others
    (keys) the second."""
    K = x_THK.shape[-1]
    if x_THK.is_cuda and K & (K - 1) == 0 and _norms_work(x_THK.device):
        from .triton.norms import norm_rotate as kernel

        return kernel(x_THK, weights, split, eps, rope)
    return _norm_rotate(x_THK, weights, split, eps, rope)


def _norm_rotate(
    x_THK: Tensor,
    weights: tuple[Tensor, Tensor],
    split: int,
    eps: float,
    rope: tuple[Tensor, Tensor],
) -> Tensor:
    parts = x_THK[:, :split], x_THK[:, split:]
    normed = (reference.rms_norm(x, w, eps) for x, w in zip(parts, weights, strict=True))
    return torch.cat([reference.rotate(x, *rope) for x in normed], 1)


def have_triton() -> bool:
    """Whether kernels may be tried: Triton is installed, and nobody asked for the reference."""
    wanted = os.environ.get("LING_KERNELS") != "reference"
    return wanted and triton.is_installed()


@cache
def _paged_works(device: torch.device) -> bool:
    def check() -> tuple[Tensor, Tensor]:
        from .triton.paged import paged_attention as kernel

        k, v = torch.randn(2, 12, 64, 2, 64, device=device).bfloat16()
        q = torch.randn(2, 2, 8, 64, device=device).bfloat16()
        table = torch.arange(12, dtype=torch.int32, device=device).view(2, 6)
        positions = torch.tensor([[300, 301], [8, 9]], dtype=torch.int32, device=device)
        inputs = (q, k, v, table, positions, positions[:, 1] + 1)
        return kernel(*inputs), paged.paged_attention(*inputs)

    return _agrees("attention over pages", check)


@cache
def _chosen_works(device: torch.device, fp8: bool) -> bool:
    def check() -> tuple[Tensor, Tensor]:
        from .triton.chosen import chosen_product as kernel
        from .triton.chosen import weighted_sum

        w, scales = torch.randn(3, 128, 256), None
        stored = w.bfloat16().to(device)
        if fp8:
            pairs = [quantise_fp8_block(x) for x in w]
            stored, scales = (torch.stack(part).to(device) for part in zip(*pairs, strict=True))
        x = torch.randn(2, 256, device=device).bfloat16()
        ids = torch.tensor([2, 0, 1, 1], device=device)
        wide = stored if scales is None else widen_blocks(stored, scales, torch.bfloat16)
        want = torch.bmm(wide[ids], x.repeat_interleave(2, 0)[..., None])[..., 0]
        got = kernel(x, ids, stored, scales)
        weights = torch.rand(2, 2, device=device)
        rows = got.view(2, 2, -1), weights
        return torch.cat((got, weighted_sum(*rows))), torch.cat((want, _weighted_sum(*rows)))

    return _agrees("products with chosen FP8 experts" if fp8 else "products with experts", check)


@cache
def _norms_work(device: torch.device) -> bool:
    def check() -> tuple[Tensor, Tensor]:
        from .triton.norms import norm_rotate as kernel
        from .triton.norms import rms_norm

        x = torch.randn(3, 6, 64, device=device).bfloat16()
        queries, keys = torch.rand(2, 64, device=device).bfloat16().unbind(0)
        cos, sin = torch.rand(2, 3, 32, device=device).bfloat16().unbind(0)
        heads = x, (queries, keys), 4, 1e-6, (cos, sin)
        got = torch.cat((kernel(*heads), rms_norm(x, queries, 1e-6)))
        return got, torch.cat((_norm_rotate(*heads), reference.rms_norm(x, queries, 1e-6)))

    return _agrees("norms", check)


def _agrees(what: str, check: Callable[[], tuple[Tensor, Tensor]]) -> bool:
    """Whether a kernel gives what its definition gives; one log line where it does not."""
    if not have_triton():
        return False
    try:
        got, want = (x.float() for x in check())
        error = float((got - want).abs().max() / want.abs().max())
        reason = None if error <= TOLERANCE else f"it is wrong by {error:.1%}"
    except Exception as err:  # whatever a compiler raises
        reason = f"{type(err).__name__}: {one_line(str(err))[-200:]}"
    if reason is not None:
        log.warning("no kernel for %s on this GPU, PyTorch instead: %s", what, reason)
    return reason is None
