"""`common.pt` of a Megatron checkpoint: training arguments to a configuration, and back.

The file is a pickle. It is read as data: arguments of unknown classes (Megatron's enums) stay
placeholders, a function anywhere in it ends the reading.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from ...config.model import ModelConfig
from ...errors import ConfigError, DCPError
from ...files.guarded import inside, open_regular, pread
from ..raw.pickle_data import Global, Record, read_pickle
from ..raw.torch_zip import find_members
from ..run_folder import MEGATRON_ARGS

_MAX_PICKLE_BYTES = 16 << 20
_NAMESPACES = (Global("argparse", "Namespace"), Global("types", "SimpleNamespace"))
# Not spelt like classes, but what plain values and enums are pickled with. Never called either.
_PLAIN = {
    *(Global("builtins", n) for n in ("set", "frozenset", "list", "dict", "tuple", "bytearray")),
    Global("builtins", "getattr"),
    Global("collections", "defaultdict"),
    Global("collections", "deque"),
    Global("datetime", "timedelta"),
    Global("torch", "device"),
    *(Global("torch", str(d)[6:]) for d in vars(torch).values() if isinstance(d, torch.dtype)),
    Global("torch._utils", "_rebuild_tensor_v2"),
    *(Global(m, "_reconstruct") for m in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *(Global(m, "scalar") for m in ("numpy.core.multiarray", "numpy._core.multiarray")),
    Global("numpy", "dtype"),
    Global("numpy", "ndarray"),
    Global("_codecs", "encode"),
}


def _allowed(name: Global) -> bool:
    """Classes and enums by their spelling; functions, which begin with a small letter, are not."""
    return name in _PLAIN or ("." not in name.name and name.name[:1].isupper())


def read_args(folder: Path) -> dict[str, Any]:
    """The training arguments that `common.pt` holds, unknown objects as placeholders."""
    try:
        with open_regular(inside(folder, MEGATRON_ARGS)) as fd:
            value = read_pickle(_pickle_in(fd), _allowed)
    except OSError as err:
        raise DCPError(f"{folder / MEGATRON_ARGS}: {err.strerror}") from None
    except DCPError as err:
        raise DCPError(f"{folder / MEGATRON_ARGS}: {err}") from None
    args = value.get("args") if isinstance(value, dict) else None
    if isinstance(args, Record) and args.kind in _NAMESPACES and isinstance(args.state, dict):
        return args.state
    raise DCPError(f"{folder / MEGATRON_ARGS}: holds no `args`, the arguments of the training")


def _pickle_in(fd: int) -> bytes:
    def read(at: int, count: int) -> bytes:
        data = pread(fd, count, at)
        if len(data) != count:
            raise DCPError("ends early")
        return data

    members = find_members(read, os.fstat(fd).st_size)
    at, size = members.get("data.pkl", (0, _MAX_PICKLE_BYTES + 1))
    if size > _MAX_PICKLE_BYTES:
        raise DCPError("holds no arguments of a usual size")
    return read(at, size)


def config_from_args(args: dict[str, Any], *, tied: bool, mtp_layers: int) -> ModelConfig:
    """The configuration that the arguments describe (docs/concepts/model.md#megatron).

    `tied` and `mtp_layers` come from the tensors. Raises `ConfigError` for arguments that have no
    counterpart in Ling 2.0.
    """
    if isinstance(args.get("ling_config"), dict):
        config = ModelConfig.from_dict(args["ling_config"])
        shared = args.get("moe_shared_expert_intermediate_size")
        config = config.with_shared_expert_width(shared) if isinstance(shared, int) else config
        return config.replace(num_nextn_predict_layers=mtp_layers, tie_word_embeddings=tied)
    if args.get("use_rope_scaling"):
        raise ConfigError("`use_rope_scaling` is set, Ling 2.0 has no such rotary scaling")
    heads = _required(args, "num_attention_heads")
    # Megatron's `num_query_groups` means nothing unless grouped attention is on.
    grouped = args.get("group_query_attention", True)
    values = {
        "num_hidden_layers": _required(args, "num_layers"),
        "hidden_size": _required(args, "hidden_size"),
        "intermediate_size": _required(args, "ffn_hidden_size"),
        "num_attention_heads": heads,
        "num_key_value_heads": args.get("num_query_groups") if grouped else heads,
        "head_dim": args.get("kv_channels"),
        "max_position_embeddings": args.get("seq_length") or args.get("max_position_embeddings"),
        "rms_norm_eps": args.get("norm_epsilon"),
        "rope_theta": args.get("rotary_base"),
        "partial_rotary_factor": args.get("rotary_percent"),
        "use_qk_norm": args.get("qk_layernorm"),
        "use_qkv_bias": args.get("add_qkv_bias"),
        "use_bias": args.get("add_bias_linear"),
        "initializer_range": args.get("init_method_std"),
        "vocab_size": _vocab_size(args),
        "tie_word_embeddings": tied,
        "num_nextn_predict_layers": mtp_layers,
        "mtp_loss_scaling_factor": args.get("mtp_loss_scaling_factor") if mtp_layers else None,
        **_experts(args),
    }
    values = {k: v for k, v in values.items() if v is not None}
    return ModelConfig(**{"use_qkv_bias": False, "use_bias": False, **values})


def _required(args: dict[str, Any], name: str) -> Any:
    if args.get(name) is None:
        raise ConfigError(f"`{name}` is missing")
    return args[name]


def _vocab_size(args: dict[str, Any]) -> Any:
    if isinstance(args.get("padded_vocab_size"), int):
        return args["padded_vocab_size"]
    size, step = _required(args, "vocab_size"), args.get("make_vocab_size_divisible_by") or 1
    return -(-size // step) * step if isinstance(size, int) and isinstance(step, int) else size


def _experts(args: dict[str, Any]) -> dict[str, Any]:
    if not args.get("num_experts"):
        return {"num_experts": 0, "num_shared_experts": 0, "first_k_dense_replace": 0}
    width = args.get("moe_ffn_hidden_size") or args.get("ffn_hidden_size")
    shared = args.get("moe_shared_expert_intermediate_size") or 0
    count, each = 1, shared
    if isinstance(shared, int) and isinstance(width, int) and width and shared % width == 0:
        count = shared // width
        each = width if shared else 0
    return {
        "num_experts": args["num_experts"],
        "num_experts_per_tok": args.get("moe_router_topk"),
        "moe_intermediate_size": width,
        "num_shared_experts": count if shared else 0,
        # Megatron's is the width of all of them together.
        "moe_shared_expert_intermediate_size": each,
        "first_k_dense_replace": _dense_layers(args),
        "n_group": args.get("moe_router_num_groups") or 1,
        "topk_group": args.get("moe_router_group_topk") or 1,
        "score_function": args.get("moe_router_score_function"),
        "router_dtype": args.get("moe_router_dtype"),
        "moe_router_enable_expert_bias": bool(args.get("moe_router_enable_expert_bias")),
        "routed_scaling_factor": args.get("moe_router_topk_scaling_factor"),
    }


def _dense_layers(args: dict[str, Any]) -> Any:
    """How many layers come before the first with experts; all later ones must have them."""
    pattern, layers = args.get("moe_layer_freq", 1), args["num_layers"]
    if args.get("first_k_dense_replace") is not None:
        return args["first_k_dense_replace"]
    if pattern in (None, 1):
        return 0
    if not isinstance(pattern, list) or len(pattern) != layers or 1 not in pattern:
        raise ConfigError(f"`moe_layer_freq` is {str(pattern)[:60]}, expected 0 and 1 per layer")
    dense = pattern.index(1)
    if pattern != [0] * dense + [1] * (layers - dense):
        raise ConfigError("`moe_layer_freq` has dense layers after the first with experts")
    return dense


def common_state(cfg: ModelConfig, iteration: int) -> dict[str, Any]:
    """What goes into `common.pt`: the arguments under which Megatron trains this model on."""
    dense = min(cfg.first_k_dense_replace, cfg.num_hidden_layers)
    values: dict[str, Any] = {
        "num_layers": cfg.num_hidden_layers,
        "hidden_size": cfg.hidden_size,
        "ffn_hidden_size": cfg.intermediate_size,
        "num_attention_heads": cfg.num_attention_heads,
        "group_query_attention": True,
        "num_query_groups": cfg.num_key_value_heads,
        "kv_channels": cfg.head_dim,
        "seq_length": cfg.max_position_embeddings,
        "max_position_embeddings": cfg.max_position_embeddings,
        "position_embedding_type": "rope",
        "rotary_base": cfg.rope_theta,
        "rotary_percent": cfg.rotary_size / cfg.head_dim,
        "normalization": "RMSNorm",
        "norm_epsilon": cfg.rms_norm_eps,
        "qk_layernorm": cfg.use_qk_norm,
        "add_qkv_bias": cfg.use_qkv_bias,
        "add_bias_linear": cfg.use_bias,
        "swiglu": True,
        "init_method_std": cfg.initializer_range,
        "vocab_size": cfg.vocab_size,
        "padded_vocab_size": cfg.vocab_size,
        "make_vocab_size_divisible_by": 128,
        "untie_embeddings_and_output_weights": not cfg.tie_word_embeddings,
        "mtp_num_layers": cfg.num_nextn_predict_layers or None,
        "mtp_loss_scaling_factor": cfg.mtp_loss_scaling_factor,
        "num_experts": cfg.num_experts or None,
        "first_k_dense_replace": dense,
        "bf16": cfg.dtype == "bfloat16",
        "params_dtype": getattr(torch, cfg.dtype),
        "fp8": None,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "expert_model_parallel_size": 1,
        "ckpt_format": "torch_dist",
        "iteration": iteration,
        # What Megatron has no argument for; our reader takes the configuration from here.
        "ling_config": cfg.to_dict(),
    }
    if cfg.num_experts:
        values |= _expert_args(cfg, dense)
    args = argparse.Namespace(**values)
    return {"args": args, "checkpoint_version": 3.0, "iteration": iteration}


def _expert_args(cfg: ModelConfig, dense: int) -> dict[str, Any]:
    grouped = cfg.n_group > 1
    return {
        "moe_layer_freq": [0] * dense + [1] * (cfg.num_hidden_layers - dense),
        "moe_ffn_hidden_size": cfg.moe_intermediate_size,
        "moe_shared_expert_intermediate_size": (cfg.shared_expert_width or None),
        "moe_router_topk": cfg.num_experts_per_tok,
        "moe_router_num_groups": cfg.n_group if grouped else None,
        "moe_router_group_topk": cfg.topk_group if grouped else None,
        "moe_router_score_function": cfg.score_function,
        "moe_router_enable_expert_bias": cfg.moe_router_enable_expert_bias,
        "moe_router_topk_scaling_factor": cfg.routed_scaling_factor,
        "moe_router_dtype": "fp32",
        "moe_grouped_gemm": True,
    }
