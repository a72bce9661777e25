"""ctypes binding of `csrc/train_attention.cpp`: causal attention for training.

Legend: T queries · S keys · H query heads · G kv heads · K head dim.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from ..errors import KernelError
from . import native

HEAD_STEP = 32
"""Head dims are multiples of it, up to `LARGEST_HEAD`."""
LARGEST_HEAD = 1024
DTYPES = ({torch.bfloat16}, {torch.float32})


class CausalC(Structure):
    """`ling_causal`."""

    _fields_ = (
        *((n, c_int64) for n in ("num_heads", "num_kv_heads", "head_dim", "num_sequences")),
        *((n, c_void_p) for n in ("query_ends", "key_ends")),
        ("scale", c_float),
        ("bf16", c_int32),
        *((n, c_void_p) for n in ("q", "k", "v")),
        *((n, c_int64) for n in ("q_stride", "k_stride", "v_stride")),
        *((n, c_void_p) for n in ("out", "lse")),
    )


def readable(x_THK: Tensor) -> Tensor:
    """The tensor itself if the heads of each token lie next to each other, else a copy."""
    _, H, K = x_THK.shape
    whole = x_THK.stride()[1:] == (K, 1) and token_stride(x_THK) >= H * K
    return x_THK if whole else x_THK.contiguous()


def token_stride(x_THK: Tensor) -> int:
    """Values from a token to the next; torch says anything of a single one."""
    T, H, K = x_THK.shape
    return x_THK.stride(0) if T > 1 else H * K


def attention(
    q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, query_ends: list[int], key_ends: list[int]
) -> tuple[Tensor, Tensor]:
    """(out_THK, lse_HT) of `causal.causal_attention`; lse is what `gradient` needs beside it."""
    lib = native.required()
    out_THK = torch.empty(q_THK.shape, dtype=q_THK.dtype, device="cpu")
    lse_HT = native.new(q_THK.shape[1], q_THK.shape[0])
    c, ends = _arguments(q_THK, k_SGK, v_SGK, out_THK, lse_HT, query_ends, key_ends)
    native.check(lib, lib.ling_causal_attention(ctypes.byref(c)))
    del ends  # alive until here
    return out_THK, lse_HT


def gradient(
    q_THK: Tensor,
    k_SGK: Tensor,
    v_SGK: Tensor,
    out_THK: Tensor,
    lse_HT: Tensor,
    query_ends: list[int],
    key_ends: list[int],
    dout_THK: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from that of out."""
    lib, dout_THK = native.required(), dout_THK.contiguous()
    made = [torch.empty(x.shape, dtype=x.dtype, device="cpu") for x in (q_THK, k_SGK, v_SGK)]
    c, ends = _arguments(q_THK, k_SGK, v_SGK, out_THK, lse_HT, query_ends, key_ends)
    pointers = (x.data_ptr() for x in (dout_THK, *made))
    native.check(lib, lib.ling_causal_gradient(ctypes.byref(c), *pointers))
    del ends
    return made[0], made[1], made[2]


def _arguments(
    q_THK: Tensor,
    k_SGK: Tensor,
    v_SGK: Tensor,
    out_THK: Tensor,
    lse_HT: Tensor,
    query_ends: list[int],
    key_ends: list[int],
) -> tuple[CausalC, list[Tensor]]:
    """The struct, and the tensors that it points to besides those given."""
    (T, H, K), (S, G, _) = q_THK.shape, k_SGK.shape
    if v_SGK.shape != k_SGK.shape or k_SGK.shape[2] != K:
        raise KernelError(
            f"q, k and v have shapes {[list(x.shape) for x in (q_THK, k_SGK, v_SGK)]}"
        )
    if query_ends[-1] != T or key_ends[-1] != S or len(query_ends) != len(key_ends):
        raise KernelError(f"sequences end at {query_ends[-1]} and {key_ends[-1]}, not {T} and {S}")
    of_one_type = {x.dtype for x in (q_THK, k_SGK, v_SGK, out_THK)} in DTYPES
    for x in (q_THK, k_SGK, v_SGK, out_THK):
        if not of_one_type or not x.is_cpu or readable(x) is not x:
            raise KernelError(
                "attention takes bfloat16 or float32 on the CPU, whole tokens in memory"
            )
    ends = [torch.tensor(e, dtype=torch.int64) for e in (query_ends, key_ends)]
    c = CausalC(H, G, K, len(query_ends) - 1, *(e.data_ptr() for e in ends), K**-0.5)
    c.bf16 = q_THK.dtype == torch.bfloat16
    c.q, c.k, c.v = (x.data_ptr() for x in (q_THK, k_SGK, v_SGK))
    c.q_stride, c.k_stride, c.v_stride = map(token_stride, (q_THK, k_SGK, v_SGK))
    c.out, c.lse = out_THK.data_ptr(), lse_HT.data_ptr()
    return c, ends
