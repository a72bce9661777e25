"""How far results are from those they should equal."""

from __future__ import annotations

import torch
from torch import Tensor


def relative(got: Tensor, want: Tensor) -> float:
    """‖got − want‖ / ‖want‖ in float64; infinite where `got` is not finite."""
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    if not got.isfinite().all():
        return float("inf")
    return float((got - want).norm() / want.norm().clamp(min=1e-30))


def largest(got: Tensor, want: Tensor) -> float:
    """max |got − want|; infinite where `got` is not finite."""
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    if not got.isfinite().all():
        return float("inf")
    return float((got - want).abs().max()) if got.numel() else 0.0


def same_bits(got: Tensor, want: Tensor) -> bool:
    """Whether all bytes are the same; FP8 codes too, and NaN equals NaN."""
    got, want = got.detach().cpu().contiguous(), want.detach().cpu().contiguous()
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    return torch.equal(*(x.flatten().view(torch.uint8) for x in (got, want)))  # numbers as well


def share_different(got: Tensor, want: Tensor) -> float:
    """Share of elements that differ in a bit."""
    size = got.element_size()
    a, b = (x.detach().cpu().contiguous().view(torch.uint8).view(-1, size) for x in (got, want))
    return float((a != b).any(1).float().mean())


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of the CPU, so that data are the same on all devices."""
    return torch.Generator().manual_seed(seed)
