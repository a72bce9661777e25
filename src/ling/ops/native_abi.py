"""Structures and functions of `csrc/ling_kernels.h`, as ctypes calls them, and their version.

Structures that one binding alone fills are in its module, such as `native_causal.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_uint64,
    c_void_p,
)
from typing import Any

ABI_VERSION = 12


class Matrix(Structure):
    """`ling_matrix`."""

    _fields_ = (
        ("format", c_int32),
        ("group", c_int32),
        ("rows", c_int64),
        ("cols", c_int64),
        ("data", c_void_p),
        ("scales", c_void_p),
    )


class ModelConfigC(Structure):
    """`ling_model_config`."""

    _fields_ = (
        *((n, c_int64) for n in ("vocab_size", "hidden_size", "num_layers", "num_mtp_layers")),
        *((n, c_int64) for n in ("num_heads", "num_kv_heads", "head_dim", "rotary_size")),
        *((n, c_int64) for n in ("num_experts", "num_experts_per_tok", "n_group", "topk_group")),
        *((n, c_int64) for n in ("expert_width", "max_positions")),
        ("rms_norm_eps", c_float),
        ("routed_scaling_factor", c_float),
        ("norm_topk_prob", c_int32),
        ("embedding_format", c_int32),
        ("embedding_group", c_int32),
        ("embedding", c_void_p),
        ("embedding_scales", c_void_p),
        ("norm", c_void_p),
        ("head", Matrix),
        *((n, c_void_p) for n in ("cos", "sin", "kv_pages")),
        ("num_pages", c_int64),
        ("kv_format", c_int32),
    )


class LayerC(Structure):
    """`ling_layer`."""

    _fields_ = (
        ("input_norm", c_void_p),
        ("qkv", Matrix),
        *((n, c_void_p) for n in ("qkv_bias", "q_norm", "k_norm")),
        ("dense", Matrix),
        *((n, c_void_p) for n in ("dense_bias", "post_norm")),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("is_moe", c_int32),
        *((n, c_void_p) for n in ("router", "expert_bias")),
        ("expert_gate_up", Matrix),
        ("expert_down", Matrix),
        ("eh_proj", Matrix),
        *((n, c_void_p) for n in ("enorm", "hnorm", "final_norm")),
    )


class SegmentC(Structure):
    """`ling_segment`."""

    _fields_ = (
        ("first", c_int64),
        ("start", c_int64),
        ("stop", c_int64),
        ("pages", c_void_p),
        ("num_pages", c_int64),
        ("adapter", c_int64),
    )


class LowRankC(Structure):
    """`ling_low_rank`."""

    _fields_ = (("rank", c_int64), ("scales", c_float * 2), ("a", c_void_p), ("b", c_void_p))


class LayerAdapterC(Structure):
    """`ling_layer_adapter`."""

    _fields_ = tuple(
        (name, LowRankC)
        for name in ("qkv", "dense", "gate_up", "down", "expert_gate_up", "expert_down")
    )


class ChoiceC(Structure):
    """`ling_choice`."""

    _fields_ = (
        *((n, c_double) for n in ("inverse_temperature", "top_p", "least_power")),
        ("top_k", c_int64),
        ("seed", c_uint64),
        ("position", c_int64),
        *((n, c_float) for n in ("repetition_penalty", "presence_penalty", "frequency_penalty")),
        ("num_best", c_int32),
        ("given", c_int64),
        *(("seen", c_void_p), ("counts", c_void_p), ("num_seen", c_int64)),
        *(("bias_ids", c_void_p), ("bias", c_void_p), ("num_bias", c_int64)),
        *(("excluded", c_void_p), ("num_excluded", c_int64)),
        ("mask", c_void_p),
    )


class ChosenC(Structure):
    """`ling_chosen`."""

    _fields_ = (("id", c_int64), ("status", c_int32), ("logprob", c_float), ("rank", c_int64))


SIGNATURES: dict[str, Sequence[Any]] = {  # argument types of each function that returns a status
    "ling_isa": [POINTER(c_char_p)],
    "ling_set_num_threads": [ctypes.c_int],
    "ling_read_seconds": [c_void_p, c_int64, POINTER(c_double)],
    "ling_use_large_pages": [c_void_p, c_int64],
    "ling_map_in": [c_void_p, c_int64],
    "ling_pack": [
        *(c_int32, c_int32, c_int64, c_int64, c_void_p, c_int32, c_int64),
        *(c_void_p, c_void_p, c_void_p),
    ],
    "ling_pack_fp8": [
        *(c_int64, c_int64, c_void_p, c_int64, c_void_p),
        *(c_int64, c_int64, c_void_p, c_void_p),
    ],
    "ling_pack_pair": [
        *(c_int32, c_int32, c_int64, c_int64, c_void_p, c_void_p, c_int32, c_int64),
        *(c_void_p, c_void_p, c_void_p),
    ],
    "ling_widen_fp8": [c_void_p, c_int64, c_int64, c_void_p, c_int64, c_void_p],
    "ling_unpack": [POINTER(Matrix), c_void_p],
    "ling_unpack_bf16": [POINTER(Matrix), c_void_p],
    "ling_matmul_bf16": [POINTER(Matrix), c_int64, c_void_p, c_int32, c_void_p, c_void_p],
    "ling_matmul": [POINTER(Matrix), c_void_p, c_void_p, c_int64],
    "ling_model_new": [POINTER(ModelConfigC), POINTER(LayerC), POINTER(c_void_p)],
    "ling_model_adapters": [c_void_p, c_void_p, c_int64],
    "ling_forward": [c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_void_p],
    "ling_trace_experts": [c_void_p, c_void_p, c_void_p, c_int64],
    "ling_mtp": [c_void_p, c_int64, c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_void_p],
    "ling_logits": [c_void_p, c_void_p, c_int64, c_int64, c_void_p],
    "ling_choose": [
        *(c_void_p, c_int64, c_int64, POINTER(ChoiceC), c_void_p, c_int64, c_int64),
        *(POINTER(ChosenC), c_void_p, c_void_p),
    ],
    "ling_model_offload": [c_void_p, c_int64, ctypes.c_int, POINTER(c_int64), c_void_p],
    "ling_model_evict": [c_void_p, c_int64],
    "ling_expert_counts": [c_void_p, c_void_p],
    "ling_profile": [c_void_p, POINTER(c_char_p), POINTER(c_double), POINTER(c_int64)],
    "ling_causal_attention": [c_void_p],
    "ling_causal_gradient": [c_void_p] * 5,
    "ling_quantise_fp8": [c_void_p],
    "ling_loss_gradient": [c_void_p, ctypes.c_int, c_int64, c_int64, *[c_void_p] * 3],
    "ling_rms_norm_gradient": [*[c_void_p] * 3, c_int64, c_int64, c_float, c_void_p, c_void_p],
    "ling_rotate_heads": [
        *(c_void_p, c_int64, c_void_p, c_void_p, *[c_int64] * 5, c_float, c_void_p)
    ],
    "ling_experts_forward": [c_void_p],
    "ling_experts_gradient": [c_void_p] * 6,
    "ling_top_k": [c_void_p, c_int64, c_int64, c_int64, c_void_p],
    "ling_sorted_rows": [c_void_p, c_int64, c_void_p, c_int64, c_void_p],
    "ling_combine_rows": [c_void_p],
    "ling_combine_gradient": [c_void_p] * 4,
    "ling_adam8": [c_void_p, c_int64, c_void_p],
    "ling_quantise8": [
        *(c_void_p, c_int64, c_void_p, ctypes.c_int, ctypes.c_int, c_void_p, c_void_p)
    ],
    "ling_dequantise8": [c_void_p, c_void_p, c_int64, c_void_p, c_void_p],
}
