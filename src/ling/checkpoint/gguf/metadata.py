"""A configuration as GGUF metadata, and back (docs/concepts/model.md#gguf)."""

from __future__ import annotations

import json
import math
from typing import Any

from ...config.model import ModelConfig
from ...errors import ConfigError, GGUFError, UsageError
from ...files.guarded import loads
from ...text import shown

ARCH = "bailingmoe2"
OWN_KEY = "ling.config"
"""JSON of the fields below, which no key of the format holds; other programs skip it."""
OWN_FIELDS = (
    "pad_token_id",
    "eos_token_id",
    "bos_token_id",
    "partial_rotary_factor",
    "rotary_dim",
    "initializer_range",
    "mtp_loss_scaling_factor",
    "moe_router_enable_expert_bias",
    "max_window_layers",
    "n_group",
    "topk_group",
    "embedding_dropout",
    "attention_dropout",
    "output_dropout",
    "use_cache",
    "output_router_logits",
)
_SIGMOID = 2
_INTS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "leading_dense_block_count": "first_k_dense_replace",
    "vocab_size": "vocab_size",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "nextn_predict_layers": "num_nextn_predict_layers",
}
_FLOATS = {
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "expert_weights_scale": "routed_scaling_factor",
}


def check_exportable(cfg: ModelConfig) -> None:
    """Raise `UsageError` for a configuration that llama.cpp's `bailingmoe2` cannot run."""
    heads = f"{cfg.num_attention_heads} heads of {cfg.head_dim}"
    scaling = cfg.rope_scaling or {}
    reasons = [
        (not cfg.num_experts, "a dense model: the architecture needs experts"),
        (not cfg.num_shared_experts, "a model without shared experts"),
        (not cfg.use_qk_norm, "a model without QK norm"),
        (cfg.use_qkv_bias or cfg.use_bias, "a model with biases in its attention"),
        (
            cfg.hidden_size != cfg.q_size,
            f"`hidden_size` = {cfg.hidden_size} with {heads}: the two must be equal",
        ),
        (scaling.get("truncate") is False, "YaRN with `truncate` false"),
    ]
    for wrong, what in reasons:
        if wrong:
            raise UsageError(f"GGUF ({ARCH}) cannot hold {what}")


def metadata_of(cfg: ModelConfig) -> dict[str, Any]:
    """Metadata of the model; ints are written as u32, floats as f32."""
    values: dict[str, Any] = {
        "block_count": cfg.num_hidden_layers + cfg.num_nextn_predict_layers,
        **{key: getattr(cfg, field) for key, field in _INTS.items()},
        **{key: float(getattr(cfg, field)) for key, field in _FLOATS.items()},
        "rope.dimension_count": cfg.rotary_size,
        "expert_weights_norm": cfg.norm_topk_prob,
        "expert_gating_func": _SIGMOID,
        **_shared(cfg),
        **_rope_scaling(cfg),
    }
    # llama.cpp aborts on groups that exclude nothing.
    if cfg.topk_group < cfg.n_group:
        values |= {
            "expert_group_count": cfg.n_group,
            "expert_group_used_count": cfg.topk_group,
        }
    own = {field: getattr(cfg, field) for field in OWN_FIELDS}
    return {f"{ARCH}.{k}": v for k, v in values.items()} | {OWN_KEY: json.dumps(own)}


def _shared(cfg: ModelConfig) -> dict[str, int]:
    """The loader multiplies the length by the count, as vLLM does."""
    return {
        "expert_shared_count": cfg.num_shared_experts,
        "expert_shared_feed_forward_length": cfg.moe_shared_expert_intermediate_size,
    }


def _rope_scaling(cfg: ModelConfig) -> dict[str, Any]:
    scaling = cfg.rope_scaling or {}
    if scaling.get("rope_type", scaling.get("type", "default")) == "default":
        return {"rope.scaling.type": "none"}
    factor = float(scaling["factor"])
    original = scaling.get("original_max_position_embeddings") or cfg.max_position_embeddings
    values = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": int(original),
    }
    for key in ("beta_fast", "beta_slow"):
        if scaling.get(key):
            values[f"rope.scaling.yarn_{key}"] = float(scaling[key])
    # llama.cpp multiplies its usual factor by this one.
    from ...model.rope import inverse_frequencies

    relative = inverse_frequencies(cfg)[1] / _usual_attention_factor(factor)
    if not math.isclose(relative, 1.0):
        values["rope.scaling.attn_factor"] = relative
    return values


def _usual_attention_factor(factor: float) -> float:
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def config_of(metadata: dict[str, Any]) -> ModelConfig:
    """The configuration of a file; raises `GGUFError` naming the key that is at fault.

    A tied head comes back as a head of its own: the file holds both.
    """
    arch = metadata.get("general.architecture")
    if arch != ARCH:
        raise GGUFError(f"`general.architecture` is {shown(arch)}, expected `{ARCH}`")
    if metadata.get("split.count", 1) != 1:
        raise GGUFError("one part of a split file; join them with `llama-gguf-split --merge`")
    own = _Keys(metadata)
    if own.get("expert_gating_func") != _SIGMOID:
        raise GGUFError(f"`{ARCH}.expert_gating_func` is not {_SIGMOID} (sigmoid)")
    try:
        return own.config()
    except ConfigError as err:
        raise GGUFError(str(err)) from None


class _Keys:
    """The architecture's own keys of a file."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.metadata = metadata

    def get(self, key: str, default: Any = None) -> Any:
        """A value; absent without a default is an error."""
        name = f"{ARCH}.{key}"
        if name not in self.metadata and default is None:
            raise GGUFError(f"`{name}` is missing")
        return self.metadata.get(name, default)

    def config(self) -> ModelConfig:
        mtp = self.get("nextn_predict_layers", 0)
        fields: dict[str, Any] = {"mtp_loss_scaling_factor": 0.1 if mtp else 0.0}
        fields |= self._foreign_ids() | self._own_fields()
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        defaults = {
            "leading_dense_block_count": 0,
            "nextn_predict_layers": 0,
            "vocab_size": len(tokens) if isinstance(tokens, list) else 0,
            "attention.value_length": self.get("attention.key_length"),
        }
        for key, field in _INTS.items():
            fields[field] = self.get(key, defaults.get(key))
        fields |= {field: self.get(key) for key, field in _FLOATS.items()}
        fields["num_hidden_layers"] = self._difference("block_count", mtp)
        fields["norm_topk_prob"] = self.get("expert_weights_norm", False)
        fields |= self._shared(fields["moe_intermediate_size"]) | self._groups(fields)
        fields["rope_scaling"] = self._rope_scaling()
        return self._with_rotary(fields)

    def _foreign_ids(self) -> dict[str, int]:
        ids = {}
        for field, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
            value = self.metadata.get(f"tokenizer.ggml.{key}_token_id", 0)
            ids[f"{field}_token_id"] = value
        return ids

    def _own_fields(self) -> dict[str, Any]:
        try:
            own = loads(self.metadata.get(OWN_KEY, "{}").encode())
        except (AttributeError, ValueError):
            own = None
        if not isinstance(own, dict):
            raise GGUFError(f"`{OWN_KEY}` is not a JSON object")
        return {field: own[field] for field in OWN_FIELDS if field in own}

    def _difference(self, key: str, mtp: Any) -> int:
        blocks = self.get(key)
        if type(blocks) is not int or type(mtp) is not int or not 0 <= mtp < blocks:
            raise GGUFError(f"`{ARCH}.{key}` is {shown(blocks)} with {shown(mtp)} MTP layers")
        return blocks - mtp

    def _shared(self, expert_length: Any) -> dict[str, int]:
        count = self.get("expert_shared_count")
        length = self.get("expert_shared_feed_forward_length", expert_length)
        if type(count) is not int or type(length) is not int:
            raise GGUFError(f"`{ARCH}.expert_shared_feed_forward_length` is {shown(length)}")
        return {
            "num_shared_experts": count,
            "moe_shared_expert_intermediate_size": length,
        }

    def _groups(self, fields: dict[str, Any]) -> dict[str, int]:
        """Groups of the file; without them any own groups must exclude nothing."""
        groups = self.get("expert_group_count", 0)
        if groups:
            return {"n_group": groups, "topk_group": self.get("expert_group_used_count")}
        own = fields.get("n_group", 1)
        if own != fields.get("topk_group", 1):
            raise GGUFError(f"`{ARCH}.expert_group_count` is missing")
        return {"n_group": own, "topk_group": own}

    def _rope_scaling(self) -> dict[str, Any] | None:
        kind = self.get("rope.scaling.type", "none")
        if kind == "none":
            return None
        factor = self.get("rope.scaling.factor")
        scaling = {
            "type": kind,
            "factor": factor,
            "original_max_position_embeddings": self.get("rope.scaling.original_context_length"),
        }
        for key in ("beta_fast", "beta_slow"):
            if value := self.get(f"rope.scaling.yarn_{key}", 0.0):
                scaling[key] = value
        relative = self.get("rope.scaling.attn_factor", 1.0)
        if not isinstance(relative, float):
            raise GGUFError(f"`{ARCH}.rope.scaling.attn_factor` is {shown(relative)}")
        if relative != 1.0 and isinstance(factor, float) and factor > 0:
            scaling["attention_factor"] = relative * _usual_attention_factor(factor)
        return scaling

    def _with_rotary(self, fields: dict[str, Any]) -> ModelConfig:
        head, rotary = fields["head_dim"], self.get("rope.dimension_count")
        if type(head) is not int or type(rotary) is not int or not 0 < rotary <= head:
            raise GGUFError(f"`{ARCH}.rope.dimension_count` is {shown(rotary)} of {shown(head)}")
        cfg = ModelConfig(**({"partial_rotary_factor": rotary / head} | fields))
        if cfg.rotary_size != rotary:
            raise GGUFError(f"`{OWN_KEY}` has {cfg.rotary_size} rotary channels, not {rotary}")
        return cfg
