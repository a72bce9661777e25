"""ctypes binding of `csrc/fp8_tiles.cpp`: quantising to FP8 as training does it.

Legend: M rows · K columns · K128 = ceil(K / 128).
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_int32, c_int64, c_void_p
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import KernelError
from . import native
from .formats import FP8_BLOCK

ROWS, COLUMNS, BLOCKS = 0, 1, 2


class Fp8C(Structure):
    """`ling_fp8`."""

    _fields_ = (
        ("x", c_void_p),
        *((n, c_int32) for n in ("x_is_bf16", "tiles", "power_of_two")),
        *((n, c_int64) for n in ("rows", "cols", "stride")),
        ("ends", c_void_p),
        ("num_groups", c_int64),
        *((n, c_void_p) for n in ("rounded", "codes", "inverse")),
    )


def takes(x: Tensor) -> bool:
    """Whether the kernel reads this tensor, and is there."""
    return x.is_cpu and x.dtype in (torch.bfloat16, torch.float32) and native.library() is not None


def rounded(x_MK: Tensor, tiles: int, ends: list[int] | None = None) -> Tensor:
    """Values quantised with powers of two and widened again to bfloat16; tiles of rows
    begin again at each of `ends`."""
    out = torch.empty(x_MK.shape, dtype=torch.bfloat16)
    _call(x_MK, tiles, power_of_two=True, ends=ends, rounded=out)
    return out


def quantised(
    x_MK: Tensor, tiles: int, *, power_of_two: bool, ends: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Codes [M, K] float8_e4m3fn and inverse scales of each tile."""
    M, K = x_MK.shape
    codes = torch.empty((M, K), dtype=torch.float8_e4m3fn)
    down = (
        M if tiles == ROWS else sum(-(-(b - a) // FP8_BLOCK) for a, b in pairwise(ends or [0, M]))
    )
    across = K if tiles == COLUMNS else -(-K // FP8_BLOCK)
    inverse = torch.empty((down, across))
    _call(x_MK, tiles, power_of_two=power_of_two, ends=ends, codes=codes, inverse=inverse)
    return codes, inverse


def _call(
    x_MK: Tensor, tiles: int, *, power_of_two: bool, ends: list[int] | None, **outputs: Tensor
) -> None:
    if not takes(x_MK) or x_MK.ndim != 2:
        raise KernelError("FP8 values come from a bfloat16 or float32 matrix on the CPU")
    lib, (M, K) = native.required(), x_MK.shape
    readable = x_MK.stride(1) == 1 and x_MK.stride(0) >= K
    x = x_MK if readable else x_MK.contiguous()
    borders = torch.tensor([0, M] if ends is None else ends, dtype=torch.int64)
    c = Fp8C(x.data_ptr(), x.dtype == torch.bfloat16, tiles, power_of_two, M, K)
    c.stride, c.ends, c.num_groups = x.stride(0), borders.data_ptr(), len(borders) - 1
    for name, out in outputs.items():
        setattr(c, name, out.data_ptr())
    native.check(lib, lib.ling_quantise_fp8(ctypes.byref(c)))
