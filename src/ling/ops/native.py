"""ctypes binding of `csrc/ling_kernels.h`. None where the library was not built."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import KernelError
from .formats import quantise_int8_rows

ABI_VERSION = 1


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The kernel library, or None; LING_REQUIRE_NATIVE=1 makes its absence a `KernelError`."""
    # An editable install leaves sources in place and the library in the install folder.
    for folder in sys.modules[__name__.partition(".")[0]].__path__:
        path = Path(folder) / "libling_kernels.so"
        if path.is_file():
            return _checked(ctypes.CDLL(str(path)), path)
    if os.environ.get("LING_REQUIRE_NATIVE") == "1":
        raise KernelError("the kernel library is not built: install ling where a C++ compiler is")
    return None


def _checked(lib: ctypes.CDLL, path: Path) -> ctypes.CDLL:
    found = lib.ling_abi_version()
    if found != ABI_VERSION:
        raise KernelError(f"{path} has ABI version {found}, expected {ABI_VERSION}; reinstall ling")
    lib.ling_last_error.restype = ctypes.c_char_p
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    lib.ling_gemv_i8_i8.argtypes = [pointer] * 5 + [size] * 3
    return lib


def check(lib: ctypes.CDLL, status: int) -> None:
    """Turn a status into `KernelError`."""
    if status:
        raise KernelError(lib.ling_last_error().decode())


def isa() -> str:
    """The level in use, or "none"; a wrong LING_ISA is a `KernelError`."""
    lib = library()
    if lib is None:
        return "none"
    name = ctypes.c_char_p()
    check(lib, lib.ling_isa(ctypes.byref(name)))
    return (name.value or b"").decode()


def bind_linear_int8(q_NK: Tensor, scale_N: Tensor) -> Callable[[Tensor], Tensor]:
    """The native `formats.linear_int8` for these weights, which the handle keeps alive.

    Raises `KernelError` for wrong dtypes, shapes or strides, here for weights and per call for x.
    """
    lib = library()
    if lib is None:
        raise KernelError("the kernel library is not built")
    N, K = q_NK.shape
    if q_NK.dtype != torch.int8 or not q_NK.is_contiguous() or not q_NK.is_cpu:
        raise KernelError("weights must be contiguous int8 on the CPU")
    if scale_N.dtype != torch.float32 or scale_N.shape != (N,) or not scale_N.is_contiguous():
        raise KernelError(f"scales must be {N} contiguous float32 values")
    if bool((q_NK == -128).any()):
        raise KernelError("weights must lie in -127..127")

    def call(x_TK: Tensor) -> Tensor:
        if x_TK.ndim != 2 or x_TK.shape[1] != K or not x_TK.is_cpu or not x_TK.is_floating_point():
            raise KernelError(f"x must be a floating-point matrix with {K} columns on the CPU")
        qx, scale = quantise_int8_rows(x_TK)
        y_TN = torch.empty(x_TK.shape[0], N)
        check(lib, lib.ling_set_num_threads(torch.get_num_threads()))
        pointers = (t.data_ptr() for t in (qx, scale, q_NK, scale_N, y_TN))
        check(lib, lib.ling_gemv_i8_i8(*pointers, x_TK.shape[0], N, K))
        return y_TN

    return call
