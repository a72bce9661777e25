"""Where each Hugging Face tensor is in a Megatron checkpoint (docs/concepts/model.md#megatron)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...model.names import TensorSpec, tensor_specs
from ..slices import Slice, whole_tensor

# State of the optimizer, of random generators, of FP8 scaling: not weights.
_NOT_WEIGHTS = ("optimizer", "_extra_state", "rng_state", "chained_0", "rerun_state_machine_state")
_OUTSIDE = {
    "model.word_embeddings.weight": "embedding.word_embeddings.weight",
    "model.norm.weight": "decoder.final_layernorm.weight",
    "lm_head.weight": "output_layer.weight",
}
_IN_LAYER = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "attention.query_key_value.weight": "self_attention.linear_qkv.weight",
    "attention.query_key_value.bias": "self_attention.linear_qkv.bias",
    "attention.dense.weight": "self_attention.linear_proj.weight",
    "attention.dense.bias": "self_attention.linear_proj.bias",
    "attention.query_layernorm.weight": "self_attention.q_layernorm.weight",
    "attention.key_layernorm.weight": "self_attention.k_layernorm.weight",
    "mlp.gate.weight": "mlp.router.weight",
    "mlp.gate.expert_bias": "mlp.router.expert_bias",
}
_MTP_ONLY = ("enorm.weight", "hnorm.weight", "eh_proj.weight", "final_layernorm.weight")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")
_MLP = re.compile(r"mlp\.(?:experts\.(\d+)\.|(shared_experts\.))?(gate|up|down)_proj\.weight")
_STACK = re.compile(r"(.*\.mlp\.experts)\.experts\.(linear_fc[12]\.weight)")
_DECODER = re.compile(r"decoder\.layers\.(\d+)\.(.*)")
_OTHER_NAMES = (
    ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
    ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"),
    (".transformer_layer.", ".mtp_model_layer."),
)


def is_qkv(place: Slice) -> bool:
    """Whether rows are queries, keys and values, which Megatron orders by group."""
    return ".linear_qkv." in place.key and not place.key.endswith("layer_norm_weight")


def megatron_slices(cfg: ModelConfig) -> dict[str, Slice]:
    """The slice of every tensor of `tensor_specs(cfg)`, by Hugging Face name."""
    return {name: _slice(cfg, name, spec) for name, spec in tensor_specs(cfg).items()}


def _slice(cfg: ModelConfig, name: str, spec: TensorSpec) -> Slice:
    if name in _OUTSIDE:
        return whole_tensor(_OUTSIDE[name], spec.shape)
    match = _LAYER.fullmatch(name)
    assert match is not None, name
    layer, suffix = int(match[1]), match[2]
    prefix = f"decoder.layers.{layer}."
    if layer >= cfg.num_hidden_layers:
        prefix = f"mtp.layers.{layer - cfg.num_hidden_layers}."
        if suffix in _MTP_ONLY:
            return whole_tensor(prefix + suffix, spec.shape)
        prefix += "transformer_layer."
    if suffix == "post_attention_layernorm.weight":
        moe = cfg.is_moe_layer(layer)
        own = "pre_mlp_layernorm.weight" if moe else "mlp.linear_fc1.layer_norm_weight"
        return whole_tensor(prefix + own, spec.shape)
    if suffix in _IN_LAYER:
        return whole_tensor(prefix + _IN_LAYER[suffix], spec.shape)
    return _mlp(cfg, prefix, suffix, spec.shape)


def _mlp(cfg: ModelConfig, prefix: str, suffix: str, shape: tuple[int, ...]) -> Slice:
    """gate and up are the two halves of fc1; routed experts are stacked."""
    match = _MLP.fullmatch(suffix)
    assert match is not None, suffix
    expert, shared, part = match.groups()
    rows, columns = shape
    fc = "linear_fc2.weight" if part == "down" else "linear_fc1.weight"
    start = (rows if part == "up" else 0, 0)
    whole = shape if part == "down" else (2 * rows, columns)
    if expert is None:
        return Slice(f"{prefix}mlp.{shared or ''}{fc}", start, shape, whole)
    stack = (cfg.num_experts, *whole)
    return Slice(f"{prefix}mlp.experts.experts.{fc}", (int(expert), *start), (1, *shape), stack)


def spellings(place: Slice, num_layers: int) -> Iterator[Slice]:
    """The same slice under the names that other Megatron versions give it, the usual one first."""
    names = [place.key]
    for usual, other in _OTHER_NAMES:
        names += [n.replace(usual, other) for n in names if usual in n]
    for name in names:
        yield place._replace(key=name)
        if stack := _STACK.fullmatch(name):
            expert = f"{stack[1]}.{stack[2]}{place.start[0]}"
            yield Slice(expert, place.start[1:], place.shape[1:], place.whole[1:])
        if layer := _DECODER.fullmatch(name):
            yield Slice(
                f"decoder.layers.{layer[2]}",
                (int(layer[1]), *place.start),
                (1, *place.shape),
                (num_layers, *place.whole),
            )


def is_weight(key: str) -> bool:
    """Whether a key holds a weight, as far as its name says."""
    return not any(word in key for word in _NOT_WEIGHTS)


def deinterleave(qkv: Tensor, cfg: ModelConfig) -> Tensor:
    """Rows by group (its queries, key, value) to all queries, all keys, all values."""
    groups, rest = cfg.num_key_value_heads, qkv.shape[1:]
    by_group = qkv.reshape(groups, -1, cfg.head_dim, *rest)
    parts = by_group.split([cfg.num_attention_heads // groups, 1, 1], dim=1)
    return torch.cat([part.reshape(-1, *rest) for part in parts])


def interleave(qkv: Tensor, cfg: ModelConfig) -> Tensor:
    """The inverse of `deinterleave`."""
    groups, rest = cfg.num_key_value_heads, qkv.shape[1:]
    parts = qkv.split([cfg.q_size, cfg.kv_size, cfg.kv_size])
    by_group = [p.reshape(groups, -1, cfg.head_dim, *rest) for p in parts]
    return torch.cat(by_group, dim=1).reshape(-1, *rest)
