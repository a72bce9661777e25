"""Rows of the int4 KV cache in plain torch: a Hadamard turn, then codes of 4 bits with one scale.

A turn spreads a large channel over all of them, so that one scale serves a whole head. It is its
own inverse and keeps scores: the kernels turn queries with the keys, and outputs back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .formats import INT4
from .packing import largest, nearest_levels


def hadamard(x: Tensor) -> Tensor:
    """x times the orthonormal Hadamard matrix of its last dimension, a power of two from 2 on.

    Sums and differences alone: a row's bits do not depend on how many there are.
    """
    n, width = x.shape[-1], 1
    while width < n:
        a, b = x.unflatten(-1, (-1, 2, width)).unbind(-2)
        x, width = torch.stack((a + b, a - b), -2).flatten(-3), 2 * width
    return x * n**-0.5


def quantise_rows_int4(x: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [..., K / 2] and float32 scales [...] of turned rows [..., K].

    Byte i has the codes of channel i in its low and K / 2 + i in its high half. The largest
    magnitude takes the lowest level, then the scale is the one that fits the codes best; its sign
    makes that magnitude negative. A row that is not finite has a NaN scale.
    """
    turned = hadamard(x.float())
    size = largest(turned)
    clip = torch.where(turned.amax(-1) >= size, float(INT4.levels[0]), -float(INT4.levels[0]))
    inverse = torch.where(size > 0, clip / size, 0.0)
    in_levels = (turned * inverse[..., None]).nan_to_num(0, 0, 0)
    codes = nearest_levels(in_levels, INT4)
    levels = _levels()[codes]
    # Channel 0 of a turn is a sum, in one order however many rows there are.
    fit = hadamard(levels * in_levels)[..., 0] / hadamard(levels.square())[..., 0]
    low, high = codes.to(torch.uint8).chunk(2, -1)
    return low | high << 4, torch.where(size > 0, fit * (size / clip), size)


def rows_of_int4(codes: Tensor, scales: Tensor) -> Tensor:
    """float32 [..., K]: what `quantise_rows_int4` stands for, turned back."""
    values = _levels()[torch.cat((codes & 15, codes >> 4), -1).long()]
    return hadamard(values * scales[..., None])


def _levels() -> Tensor:
    return torch.tensor(INT4.levels, dtype=torch.float32)
