"""The operations on moments of one byte: native on CPUs, Triton on GPUs where it is, else their
definition in `ops.adam8`, which all equal to the bit. Nobody else asks which of them there is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import adam8, native, native_adam8, triton
from .adam8 import Moments, Scalars

Shard = tuple[Tensor, Tensor, Moments, Scalars]
"""Parameter and gradient (N float32, no gaps), moments, and the numbers of the step."""


def step(shards: Sequence[Shard]) -> None:
    """A step of AdamW of all shards, which are on one device, in place."""
    if not shards:
        return
    if _is_native(shards[0][0].device):
        native_adam8.step(shards)
        return
    one = _reference
    if shards[0][0].is_cuda and triton.is_installed():
        from .triton import adam8 as on_gpu

        one = on_gpu.step
    for shard in shards:
        one(*shard)


def _reference(p_N: Tensor, g_N: Tensor, moments: Moments, s: Scalars) -> None:
    adam8.step_reference(p_N, g_N, moments, s)


def quantise(x_N: Tensor, *, signed: bool, absmax_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`adam8.quantise`."""
    run = native_adam8.quantise if _is_native(x_N.device) else adam8.quantise
    return run(x_N, signed=signed, absmax_B=absmax_B)


def dequantise(codes_N: Tensor, absmax_B: Tensor, *, signed: bool) -> Tensor:
    """`adam8.dequantise`."""
    run = native_adam8.dequantise if _is_native(codes_N.device) else adam8.dequantise
    return run(codes_N, absmax_B, signed=signed)


def _is_native(device: torch.device) -> bool:
    return device.type == "cpu" and native.library() is not None
