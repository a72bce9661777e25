"""Hugging Face tensor names of a configuration, and where each lives in the module.

The module has Hugging Face's own names; only routed experts differ: one tensor per expert on
disk, one stack per layer in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..config.model import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")


class TensorSpec(NamedTuple):
    """Shape of one tensor on disk; `float32` marks those that never leave float32."""

    shape: tuple[int, ...]
    float32: bool = False


def tensor_specs(cfg: ModelConfig) -> dict[str, TensorSpec]:
    """Every tensor of a checkpoint in layer order (docs/concepts/model.md#tensors)."""
    h, v = cfg.hidden_size, cfg.vocab_size
    specs = {"model.word_embeddings.weight": TensorSpec((v, h))}
    for n in range(cfg.num_hidden_layers + cfg.num_nextn_predict_layers):
        prefix = f"model.layers.{n}."
        specs.update({prefix + name: spec for name, spec in _layer(cfg, n)})
    specs["model.norm.weight"] = TensorSpec((h,))
    if not cfg.tie_word_embeddings:
        specs["lm_head.weight"] = TensorSpec((v, h))
    return specs


def _layer(cfg: ModelConfig, n: int) -> Iterator[tuple[str, TensorSpec]]:
    h, qkv = cfg.hidden_size, cfg.q_size + 2 * cfg.kv_size
    yield "input_layernorm.weight", TensorSpec((h,))
    yield "attention.query_key_value.weight", TensorSpec((qkv, h))
    if cfg.use_qkv_bias:
        yield "attention.query_key_value.bias", TensorSpec((qkv,))
    if cfg.use_qk_norm:
        yield "attention.query_layernorm.weight", TensorSpec((cfg.head_dim,))
        yield "attention.key_layernorm.weight", TensorSpec((cfg.head_dim,))
    yield "attention.dense.weight", TensorSpec((h, cfg.q_size))
    if cfg.use_bias:
        yield "attention.dense.bias", TensorSpec((h,))
    yield "post_attention_layernorm.weight", TensorSpec((h,))
    if cfg.is_moe_layer(n):
        yield "mlp.gate.weight", TensorSpec((cfg.num_experts, h))
        yield "mlp.gate.expert_bias", TensorSpec((cfg.num_experts,), float32=True)
        for e in range(cfg.num_experts):
            yield from _mlp(f"mlp.experts.{e}.", h, cfg.moe_intermediate_size)
        if cfg.num_shared_experts:
            yield from _mlp("mlp.shared_experts.", h, cfg.shared_expert_width)
    else:
        yield from _mlp("mlp.", h, cfg.intermediate_size)
    if n >= cfg.num_hidden_layers:
        for norm in ("enorm", "hnorm", "final_layernorm"):
            yield f"{norm}.weight", TensorSpec((h,))
        yield "eh_proj.weight", TensorSpec((h, 2 * h))


def _mlp(prefix: str, hidden: int, width: int) -> Iterator[tuple[str, TensorSpec]]:
    yield f"{prefix}gate_proj.weight", TensorSpec((width, hidden))
    yield f"{prefix}up_proj.weight", TensorSpec((width, hidden))
    yield f"{prefix}down_proj.weight", TensorSpec((hidden, width))


def in_module(hf_name: str) -> tuple[str, int | None]:
    """The module's name for a tensor on disk, and which slice of the stack it is."""
    match = _EXPERT.fullmatch(hf_name)
    if match is None:
        return hf_name, None
    return f"{match[1]}.{match[3]}", int(match[2])


def module_tensor(state: Mapping[str, Tensor], hf_name: str) -> Tensor:
    """What a tensor on disk is in a module's state: a view of a stack for a routed expert."""
    key, expert = in_module(hf_name)
    return state[key] if expert is None else state[key][expert]
