"""Rows and weights for products in FP8."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def normal():
    """A function that makes bfloat16 values with a few large ones, as activations have them."""
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int, scale: float = 1.0) -> torch.Tensor:
        x = torch.randn(shape, generator=generator) * scale
        x[..., 3] *= 30
        return x.bfloat16()

    return make
