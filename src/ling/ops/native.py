"""The C++ core: the library, None where it was not built, and its calls about packed matrices."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
from collections.abc import Sequence
from ctypes import c_char_p, c_double, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from ..errors import KernelError
from . import limits
from .formats import FP8, FP8_BLOCK, TILE, Format
from .fp8 import quantise_fp8_block
from .native_abi import ABI_VERSION, SIGNATURES, Matrix
from .packing import Packed, empty, packed_shapes, scale_dtype


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The kernel library, or None; LING_REQUIRE_NATIVE=1 makes its absence a `KernelError`."""
    # An editable install leaves sources in place and the library in the install folder.
    for folder in sys.modules[__name__.partition(".")[0]].__path__:
        path = Path(folder) / "libling_kernels.so"
        if path.is_file():
            return _checked(_loaded(path), path)
    if os.environ.get("LING_REQUIRE_NATIVE") == "1":
        raise KernelError("the kernel library is not built: install ling where a C++ compiler is")
    return None


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as err:  # of another system, or another OpenMP
        raise KernelError(f"{path} does not load: {err}; reinstall ling") from None


def _checked(lib: ctypes.CDLL, path: Path) -> ctypes.CDLL:
    found = lib.ling_abi_version()
    if found != ABI_VERSION:
        raise KernelError(f"{path} has ABI version {found}, expected {ABI_VERSION}; reinstall ling")
    lib.ling_last_error.restype = c_char_p
    for name, types in SIGNATURES.items():
        getattr(lib, name).argtypes = types
    lib.ling_model_free.argtypes, lib.ling_model_free.restype = [c_void_p], None
    bound_threads()
    return lib


def bound_threads() -> None:
    """Lower torch's default number of threads, which ours follows, to a container's quota.

    More threads than the quota's cores are stopped for most of each period, all at once.
    """
    most = limits.default_threads()
    if most is not None and torch.get_num_threads() > most:
        torch.set_num_threads(most)


def reads(x: torch.Tensor) -> bool:
    """Whether the library is there and can read this tensor: it is on the CPU, with memory."""
    # A subclass may have none (torch's fake tensors), or only a part of its values (DTensor).
    plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu"
    return plain and not torch.compiler.is_compiling() and library() is not None


def reads_float32(*tensors: torch.Tensor) -> bool:
    """Whether the library can read all of them, and they are float32."""
    return all(x.dtype == torch.float32 and reads(x) for x in tensors)


def new(*shape: int) -> torch.Tensor:
    """Memory for float32 results, whatever torch's default type and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def required() -> ctypes.CDLL:
    """The library, with the thread count that torch uses; `KernelError` when it is not there."""
    lib = library()
    if lib is None:
        raise KernelError("the kernel library is not built")
    check(lib, lib.ling_set_num_threads(torch.get_num_threads()))
    return lib


def check(lib: ctypes.CDLL, status: int) -> None:
    """Turn a status into `KernelError`."""
    if status:
        raise KernelError(lib.ling_last_error().decode())


def isa() -> str:
    """The instruction set in use, or "none"; a wrong LING_ISA is a `KernelError`."""
    lib = library()
    if lib is None:
        return "none"
    name = c_char_p()
    check(lib, lib.ling_isa(ctypes.byref(name)))
    return (name.value or b"").decode()


@functools.lru_cache(maxsize=1)
def library_id() -> str:
    """A hash of the library's file: another build may round otherwise."""
    path = Path(required()._name)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:20]


def read_rate(data: Tensor) -> float:
    """Bytes per second at which all threads together read `data` (1 GiB or more) from memory."""
    lib, seconds = required(), c_double()
    check(lib, lib.ling_read_seconds(data.data_ptr(), data.nbytes, ctypes.byref(seconds)))
    return data.nbytes / seconds.value


def use_large_pages(untouched: Tensor) -> None:
    """Have pages of 2 MiB, where the system has them, for a tensor that was just made and not yet
    filled: reading a large one takes fewer address look-ups.
    """
    lib = required()
    check(lib, lib.ling_use_large_pages(untouched.data_ptr(), untouched.nbytes))


def map_in(p: Packed) -> None:
    """Have the pages of a mapped matrix in the page table before it is read."""
    lib = required()
    for tensor in (p.data, p.scales):
        if tensor is not None:
            check(lib, lib.ling_map_in(tensor.data_ptr(), tensor.nbytes))


def matrix(p: Packed | None) -> Matrix:
    """The C view of a packed matrix (the first of a stack); the caller keeps `p` alive."""
    if p is None:
        return Matrix()
    if p.format.kernel is None:
        raise KernelError(f"no kernel reads the format `{p.format.name}`")
    shapes = packed_shapes(p.format, p.rows, p.cols)
    for tensor, shape in zip((p.data, p.scales), shapes, strict=True):
        if (tensor is None) != (shape is None):
            raise KernelError(f"a packed `{p.format.name}` matrix lacks data or scales")
        if tensor is None or shape is None:
            continue
        dtype = torch.uint8 if tensor is p.data else scale_dtype(p.format)
        if tuple(tensor.shape[-len(shape) :]) != shape or tensor.dtype != dtype:
            raise KernelError(
                f"packed data has shape {list(tensor.shape)} {tensor.dtype}, expected "
                f"{list(shape)} {dtype}"
            )
        if not tensor.is_contiguous() or not tensor.is_cpu:
            raise KernelError("packed data must be contiguous on the CPU")
    scales = None if p.scales is None else p.scales.data_ptr()
    return Matrix(p.format.kernel, p.format.group, p.rows, p.cols, p.data.data_ptr(), scales)


def pack(
    w_NK: Tensor,
    fmt: Format,
    importance_K: Tensor | None = None,
    out: Packed | None = None,
) -> Packed:
    """Native `packing.pack`, into `out` when given. Takes float32 or bfloat16."""
    w_NK = _rows(w_NK)
    out = out or empty(fmt, *w_NK.shape)
    if fmt.scale_rows > 1:
        lay_out_fp8(*quantise_fp8_block(w_NK), out)
        return out
    lib, m = required(), _place(out, *w_NK.shape)
    h = _importance(importance_K, m.cols)
    status = lib.ling_pack(
        *(m.format, m.group, m.rows, m.cols, w_NK.data_ptr(), int(w_NK.dtype == torch.bfloat16)),
        *(w_NK.stride(0), None if h is None else h.data_ptr(), m.data, m.scales),
    )
    check(lib, status)
    return out


def pack_pair(
    a_NK: Tensor, b_NK: Tensor, importance_K: Tensor | None = None, *, out: Packed
) -> None:
    """Pack two matrices of one type whose tiles alternate (`packing.interleave`)."""
    a_NK, b_NK = _rows(a_NK), _rows(b_NK)
    if (a_NK.shape, a_NK.dtype, a_NK.stride()) != (b_NK.shape, b_NK.dtype, b_NK.stride()):
        raise KernelError("the two matrices differ in shape, type or stride")
    lib, m = required(), _place(out, 2 * a_NK.shape[0], a_NK.shape[1])
    h = _importance(importance_K, m.cols)
    status = lib.ling_pack_pair(
        *(m.format, m.group, m.rows, m.cols, a_NK.data_ptr(), b_NK.data_ptr()),
        *(int(a_NK.dtype == torch.bfloat16), a_NK.stride(0)),
        *(None if h is None else h.data_ptr(), m.data, m.scales),
    )
    check(lib, status)


def lay_out_fp8(
    values_NK: Tensor, block_scales: Tensor, out: Packed, part: int = 0, parts: int = 1
) -> None:
    """Native `packing.lay_out_fp8` into `out`, where tiles of `parts` such matrices take turns."""
    lib, m, (N, K) = required(), matrix(out), values_NK.shape
    fits = (m.rows, m.cols) == (parts * N, K) and 0 <= part < parts and out.format is FP8
    if not fits or (parts > 1 and N % TILE):
        raise KernelError(f"FP8 weights have shape {[N, K]}, their place {[m.rows, m.cols]}")
    if values_NK.dtype != torch.float8_e4m3fn or values_NK.stride(1) != 1 or not values_NK.is_cpu:
        raise KernelError("FP8 weights must be float8_e4m3fn on the CPU, whole rows in memory")
    scales = block_scales.contiguous()
    if scales.shape != (-(-N // FP8_BLOCK), -(-K // FP8_BLOCK)) or scales.dtype != torch.float32:
        raise KernelError(f"FP8 weights of shape {[N, K]} have scales of {list(scales.shape)}")
    status = lib.ling_pack_fp8(
        *(N, K, values_NK.data_ptr(), values_NK.stride(0), scales.data_ptr()),
        *(part, parts, m.data, m.scales),
    )
    check(lib, status)


def _rows(w_NK: Tensor) -> Tensor:
    if w_NK.dtype not in (torch.float32, torch.bfloat16) or w_NK.ndim != 2 or not w_NK.is_cpu:
        raise KernelError("weights must be a float32 or bfloat16 matrix on the CPU")
    return w_NK if w_NK.stride(1) == 1 else w_NK.contiguous()


def _place(out: Packed, rows: int, cols: int) -> Matrix:
    m = matrix(out)
    if (m.rows, m.cols) != (rows, cols):
        raise KernelError(f"weights have shape {[rows, cols]}, their place {[m.rows, m.cols]}")
    return m


def _importance(importance_K: Tensor | None, cols: int) -> Tensor | None:
    h = None if importance_K is None else importance_K.float().contiguous()
    if h is not None and h.shape != (cols,):
        raise KernelError(f"importance must be {cols} values")
    return h


def widen_fp8(q_MN: Tensor, scale: Tensor, block: int = FP8_BLOCK) -> Tensor:
    """Native `fp8.dequantise_fp8_block`, rounded to bfloat16."""
    M, N = q_MN.shape
    if q_MN.dtype != torch.float8_e4m3fn or scale.dtype != torch.float32:
        raise KernelError(f"FP8 values and float32 scales, not {q_MN.dtype} and {scale.dtype}")
    if tuple(scale.shape) != (-(-M // block), -(-N // block)) or not q_MN.is_cpu:
        raise KernelError(f"scales have shape {list(scale.shape)}, values {[M, N]} on the CPU")
    q, s, out = q_MN.contiguous(), scale.contiguous(), torch.empty(M, N, dtype=torch.bfloat16)
    lib = required()
    check(lib, lib.ling_widen_fp8(q.data_ptr(), M, N, s.data_ptr(), block, out.data_ptr()))
    return out


def unpack(p: Packed) -> Tensor:
    """Native `packing.unpack`."""
    lib, out = required(), torch.empty(p.rows, p.cols)
    check(lib, lib.ling_unpack(ctypes.byref(matrix(p)), out.data_ptr()))
    return out


def unpack_bf16(p: Packed, out: Tensor | None = None) -> Tensor:
    """`unpack` rounded to bfloat16, into `out` when given."""
    lib = required()
    out = torch.empty(p.rows, p.cols, dtype=torch.bfloat16) if out is None else out
    fits = tuple(out.shape) == (p.rows, p.cols) and out.dtype == torch.bfloat16
    if not fits or not out.is_contiguous() or not out.is_cpu:
        raise KernelError(f"the place must be bfloat16 {[p.rows, p.cols]}, contiguous on the CPU")
    check(lib, lib.ling_unpack_bf16(ctypes.byref(matrix(p)), out.data_ptr()))
    return out


def matmul(p: Packed, x_TK: Tensor) -> Tensor:
    """Native `packing.matmul`; raises `KernelError` for other than a float32 CPU matrix."""
    lib = required()
    if x_TK.ndim != 2 or x_TK.shape[1] != p.cols or x_TK.dtype != torch.float32 or not x_TK.is_cpu:
        raise KernelError(f"x must be a float32 matrix with {p.cols} columns on the CPU")
    x, y = x_TK.contiguous(), torch.empty(x_TK.shape[0], p.rows)
    check(lib, lib.ling_matmul(ctypes.byref(matrix(p)), x.data_ptr(), y.data_ptr(), len(x)))
    return y


def matmul_bf16(p: Packed, x_RK: Tensor, ends: Sequence[int], *, pairs: bool = False) -> Tensor:
    """bfloat16 y_RN: rows [ends[e], ends[e + 1]) of x times matrix e of a stack, or the one matrix.

    `matmul` of the same rows in float32, rounded; with `pairs` the columns of two matrices whose
    tiles take turns are side by side. Raises `KernelError` for other than bfloat16 rows.
    """
    lib, count = required(), len(p.data) if p.data.ndim == 3 else 1
    fits = x_RK.ndim == 2 and x_RK.shape[1] == p.cols and x_RK.dtype == torch.bfloat16
    if not fits or not x_RK.is_cpu or len(ends) != count + 1 or ends[-1] != len(x_RK):
        raise KernelError(
            f"x must be a bfloat16 matrix with {p.cols} columns on the CPU, and its rows those of "
            f"{count} matrices"
        )
    x, y = x_RK.contiguous(), x_RK.new_empty((len(x_RK), p.rows))
    borders = (c_int64 * len(ends))(*ends)
    status = lib.ling_matmul_bf16(
        *(ctypes.byref(matrix(p)), count, borders, int(pairs), x.data_ptr(), y.data_ptr())
    )
    check(lib, status)
    return y
