"""ctypes binding of AdamW with moments of one byte (`csrc/adam8.cpp`); `ops.adam8` defines it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import Structure, c_float, c_int64, c_void_p

import torch
from torch import Tensor

from ..errors import KernelError
from . import native
from .adam8 import ZERO_CODE, Moments, Scalars, num_blocks, table


class ShardC(Structure):
    """`ling_adam8_shard`."""

    _fields_ = (
        ("n", c_int64),
        *((n, c_void_p) for n in ("p", "g", "codes1", "codes2", "absmax1", "absmax2")),
        *((n, c_float) for n in ("beta1", "beta2", "step", "eps", "keep")),
    )


def step(shards: Sequence[tuple[Tensor, Tensor, Moments, Scalars]]) -> None:
    """`adam8.step_reference` of many shards (p_N, g_N, moments, scalars), in place."""
    lib, array = native.required(), (ShardC * len(shards))()
    for i, (p_N, g_N, (codes1, absmax1, codes2, absmax2), s) in enumerate(shards):
        _check((p_N, g_N), torch.float32, len(p_N))
        _check((codes1, codes2), torch.uint8, len(p_N))
        _check((absmax1, absmax2), torch.float32, num_blocks(len(p_N)))
        pointers = (t.data_ptr() for t in (p_N, g_N, codes1, codes2, absmax1, absmax2))
        array[i] = ShardC(len(p_N), *pointers, *s)
    native.check(lib, lib.ling_adam8(array, len(shards), _tables().data_ptr()))


@functools.lru_cache(maxsize=1)
def _tables() -> Tensor:
    """Both tables, in which no x below 0 has the code of 0: the kernel looks from the next one."""
    signed = table(signed=True).clone()
    signed[1, ZERO_CODE[0] - 1] = 0
    return torch.cat((signed, table(signed=False)))


def quantise(x_N: Tensor, *, signed: bool, absmax_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`adam8.quantise`."""
    lib, n = native.required(), len(x_N)
    codes_N = torch.empty(n, dtype=torch.uint8)
    scales_B = torch.empty(num_blocks(n)) if absmax_B is None else absmax_B
    _check((x_N,), torch.float32, n)
    _check((scales_B,), torch.float32, num_blocks(n))
    pointers = x_N.data_ptr(), n, table(signed=signed).data_ptr()
    flags = int(signed), int(absmax_B is not None)
    to = codes_N.data_ptr(), scales_B.data_ptr()
    native.check(lib, lib.ling_quantise8(*pointers, *flags, *to))
    return codes_N, scales_B


def dequantise(codes_N: Tensor, absmax_B: Tensor, *, signed: bool) -> Tensor:
    """`adam8.dequantise`."""
    lib, n = native.required(), len(codes_N)
    _check((codes_N,), torch.uint8, n)
    _check((absmax_B,), torch.float32, num_blocks(n))
    out_N = torch.empty(n)
    pointers = codes_N.data_ptr(), absmax_B.data_ptr()
    values = table(signed=signed)
    native.check(lib, lib.ling_dequantise8(*pointers, n, values.data_ptr(), out_N.data_ptr()))
    return out_N


def _check(tensors: Sequence[Tensor], dtype: torch.dtype, n: int) -> None:
    for t in tensors:
        if t.dtype != dtype or not t.is_cpu or not t.is_contiguous() or t.shape != (n,):
            raise KernelError(
                f"8-bit AdamW takes [{n}] {dtype} on the CPU, without gaps; got {list(t.shape)} "
                f"{t.dtype} on {t.device} with strides {t.stride()}"
            )
