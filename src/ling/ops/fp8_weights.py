"""What a step does to weights in FP8: by Triton kernels on a GPU, with the same bytes elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from . import fp8_tiles, triton
from .fp8_tiles import POWER_OF_TWO, Scales


def quantise_weight(w_NK: Tensor, scales: Scales = POWER_OF_TWO) -> tuple[Tensor, Tensor]:
    """`fp8_tiles.quantise_blocks`."""
    if has_kernels(w_NK):
        # Triton need not be installed where no tensor is on a GPU.
        from .triton import quantise

        return quantise.quantise_blocks(w_NK, scales)
    return fp8_tiles.quantise_weight(w_NK, scales)


def transposed(q_NK: Tensor) -> Tensor:
    """FP8 codes with their last two dimensions exchanged, row by row in memory."""
    if has_kernels(q_NK):
        from .triton import transpose

        return transpose.transposed(q_NK)
    return q_NK.view(torch.uint8).transpose(-1, -2).contiguous().view(q_NK.dtype)


def has_kernels(x: Tensor) -> bool:
    """Whether our kernels take a tensor of this device: any GPU, where Triton is installed."""
    return x.device.type == "cuda" and triton.is_installed()
