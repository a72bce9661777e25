"""AdamW with moments of one byte, block by block: the definition, in torch on any device.

The states of bitsandbytes' AdamW8bit as its GPU kernels compute them: a code of one byte per
element, an entry of a map of 256 values, and a scale per block of 256 elements, the largest
magnitude in it. All is float32, each operation rounded by itself, so that the kernels for CPUs
(`csrc/kernels/adam8.h`) and GPUs (`ops/triton/adam8.py`) can equal it to the bit.

Legend: N elements of a shard, flattened · B blocks.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 256
"""Elements that share a scale."""
LEAST = 4096
"""A shard of fewer elements has moments in float32."""
ZERO_CODE = (127, 0)
"""The codes of 0: of the first moment and of the second."""


class Scalars(NamedTuple):
    """What a step has in common for all elements, as float32 numbers."""

    beta1: float
    beta2: float
    step: float
    """-lr · c2 / c1 with c1 = 1 - beta1^t and c2 = sqrt(1 - beta2^t)."""
    eps: float
    """c2 · eps."""
    keep: float
    """1 - lr · weight decay."""


class Moments(NamedTuple):
    """The codes (N uint8) and scales (B float32) of both moments of a shard."""

    codes1: Tensor
    absmax1: Tensor
    codes2: Tensor
    absmax2: Tensor


def scalars(
    step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> Scalars:
    """The numbers of step `step` (the first is 1), computed in float64 and then rounded."""
    c1, c2 = 1 - betas[0] ** step, math.sqrt(1 - betas[1] ** step)
    return Scalars(*map(_float32, (*betas, -lr * c2 / c1, c2 * eps, 1 - lr * weight_decay)))


def rests(s: Scalars) -> tuple[float, float]:
    """1 - beta of both, in float32: then the weights of a mean have the sum 1."""
    return _float32(1 - s.beta1), _float32(1 - s.beta2)


def _float32(x: float) -> float:
    return float(torch.tensor(x, dtype=torch.float32))


# ---- maps --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def table(*, signed: bool) -> Tensor:
    """[2, 256] float32: the values of the codes, and above which x the next code is nearer.

    Seven decades up to 1, each of twice as many values as the one below. In the middle between two
    values the even code is taken; no code comes after the last.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, (1 if signed else 2) * 2**i + 1)
        decade = (10 ** (i - 6) * ((edges[:-1] + edges[1:]) / 2)).tolist()
        values += decade + ([-x for x in decade] if signed else [])
    codes = torch.tensor(sorted(values))
    limits = torch.cat(((codes[:-1] + codes[1:]) * 0.5, torch.tensor([math.inf])))
    limits[1:-1:2] = torch.nextafter(limits[1:-1:2], torch.tensor(-math.inf))
    return torch.stack((codes, limits))


# ---- quantise ----------------------------------------------------------------------------------


def num_blocks(n: int) -> int:
    """Blocks of a shard of n elements; the last may have fewer than `BLOCK`."""
    return -(-n // BLOCK)


def largest(x_N: Tensor) -> Tensor:
    """absmax_B: the largest magnitude of each block."""
    return _blocks(x_N).abs().amax(1)


def quantise(x_N: Tensor, *, signed: bool, absmax_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(codes_N, absmax_B) of float32 values; a given `absmax_B` is kept, and bounds them."""
    if absmax_B is None:
        absmax_B = largest(x_N)
    else:
        most_B = absmax_B[:, None]
        x_N = _unblocked(_blocks(x_N).clamp(-most_B, most_B), len(x_N))
    limits = table(signed=signed)[1]
    return _codes(x_N, absmax_B, limits), absmax_B


def dequantise(codes_N: Tensor, absmax_B: Tensor, *, signed: bool) -> Tensor:
    """float32 values."""
    values_N = table(signed=signed)[0].to(codes_N.device)[codes_N.long()]
    return _unblocked(_blocks(values_N) * absmax_B[:, None], len(codes_N))


def _codes(x_N: Tensor, absmax_B: Tensor, limits: Tensor) -> Tensor:
    by_B = torch.where(absmax_B > 0, absmax_B, 1.0)
    share_N = _unblocked(_blocks(x_N) / by_B[:, None], len(x_N))
    return torch.bucketize(share_N, limits[:-1].to(x_N.device)).to(torch.uint8)


def _blocks(x_N: Tensor) -> Tensor:
    """[B, 256]; zeros behind the last."""
    missing = num_blocks(len(x_N)) * BLOCK - len(x_N)
    return torch.nn.functional.pad(x_N, (0, missing)).view(-1, BLOCK)


def _unblocked(x_B256: Tensor, n: int) -> Tensor:
    return x_B256.flatten()[:n]


# ---- update ------------------------------------------------------------------------------------


def advance(p_N: Tensor, g_N: Tensor, m_N: Tensor, v_N: Tensor, s: Scalars) -> None:
    """A step of AdamW on float32 values, in place; the decay follows the step, on its result.

    An element whose second moment would not be finite, as where the gradient is not, keeps its
    parameter, and both its moments become 0.
    """
    rest1, rest2 = rests(s)
    m_new = m_N * s.beta1 + g_N * rest1
    v_new = v_N * s.beta2 + g_N * rest2 * g_N
    # torch's root of float32 is not always the nearest number on CPUs; that of float64 is then.
    root = v_new.double().sqrt().float()
    moved = (p_N + m_new / (root + s.eps) * s.step) * s.keep
    finite = v_new < math.inf
    p_N.copy_(torch.where(finite, moved, p_N))
    m_N.copy_(torch.where(finite, m_new, 0.0))
    v_N.copy_(torch.where(finite, v_new, 0.0))


def step_reference(p_N: Tensor, g_N: Tensor, moments: Moments, s: Scalars) -> None:
    """A step of a shard in place: dequantise, `advance`, quantise by new scales.

    A first moment below 0 gets no code of another sign: at least the smallest negative one.
    """
    codes1, absmax1, codes2, absmax2 = moments
    m_N = dequantise(codes1, absmax1, signed=True)
    v_N = dequantise(codes2, absmax2, signed=False)
    advance(p_N, g_N, m_N, v_N, s)
    absmax1.copy_(largest(m_N))
    absmax2.copy_(largest(v_N))
    codes = _codes(m_N, absmax1, table(signed=True)[1])
    codes1.copy_(torch.where(m_N < 0, codes.clamp(max=ZERO_CODE[0] - 1), codes))
    codes2.copy_(_codes(v_N, absmax2, table(signed=False)[1]))
