"""GGUF tensor names of a configuration (docs/concepts/model.md#gguf)."""

from __future__ import annotations

import re
from typing import NamedTuple

from ...config.model import ModelConfig
from ...model.names import tensor_specs
from ..slices import Slice, of_stack

_TOP = {
    "model.word_embeddings.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "attention.query_key_value.weight": "attn_qkv.weight",
    "attention.query_layernorm.weight": "attn_q_norm.weight",
    "attention.key_layernorm.weight": "attn_k_norm.weight",
    "attention.dense.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.expert_bias": "exp_probs_b.bias",
    "mlp.experts.gate_proj.weight": "ffn_gate_exps.weight",
    "mlp.experts.up_proj.weight": "ffn_up_exps.weight",
    "mlp.experts.down_proj.weight": "ffn_down_exps.weight",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
    "enorm.weight": "nextn.enorm.weight",
    "hnorm.weight": "nextn.hnorm.weight",
    "eh_proj.weight": "nextn.eh_proj.weight",
    "final_layernorm.weight": "layer_output_norm.weight",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")
_EXPERT = re.compile(r"mlp\.experts\.(\d+)\.")


class GGUFSpec(NamedTuple):
    """Shape of one GGUF tensor, slowest dimension first; `float32` marks those kept so."""

    shape: tuple[int, ...]
    float32: bool


def _in_gguf(hf_name: str) -> tuple[str, int | None]:
    """The GGUF tensor of a Hugging Face name, and which slice of an expert stack it is."""
    layer = _LAYER.fullmatch(hf_name)
    if layer is None:
        return _TOP[hf_name], None
    expert = _EXPERT.match(layer[2])
    suffix = _EXPERT.sub("mlp.experts.", layer[2])
    return f"blk.{layer[1]}.{_IN_LAYER[suffix]}", int(expert[1]) if expert else None


def gguf_slices(cfg: ModelConfig) -> dict[str, Slice]:
    """Where every tensor of `tensor_specs(cfg)` is, by Hugging Face name."""
    slices = {}
    for name, spec in tensor_specs(cfg).items():
        key, expert = _in_gguf(name)
        slices[name] = of_stack(key, expert, cfg.num_experts, spec.shape)
    return slices


def gguf_specs(cfg: ModelConfig) -> dict[str, GGUFSpec]:
    """Every tensor of the file, in the order in which `tensor_specs` first touches it.

    Norms, router and expert bias stay in float32, as llama.cpp's own converter has it.
    """
    specs: dict[str, GGUFSpec] = {}
    for place in gguf_slices(cfg).values():
        keep = len(place.whole) == 1 or place.key.endswith("ffn_gate_inp.weight")
        specs[place.key] = GGUFSpec(place.whole, keep)
    if cfg.tie_word_embeddings:  # llama.cpp has no tied head for this architecture
        specs["output.weight"] = specs["token_embd.weight"]
    return specs
