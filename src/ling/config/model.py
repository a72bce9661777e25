"""`ModelConfig`: shape and numerics of one model, a frozen dataclass checked when made.

Field names are those of the released `config.json`; defaults are upstream's constructor defaults.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError
from ..text import as_json
from .hf_json import (
    check_quantization,
    read_raw,
    read_rope_parameters,
    read_special_ids,
)

ARCHITECTURE = "BailingMoeV2ForCausalLM"


MODEL_TYPES = ("bailing_moe", "bailing_moe_v2", "bailing_moe_linear_v2")


# Larger numbers only come from damaged or hostile files; the largest released value is 157,184.
MAX_FIELD = 1 << 24


# Layers times experts, whose names are made before a file is looked at; Ling-1T has 20,480.
MAX_SLICES = 1 << 17


_POSITIVE = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "moe_intermediate_size",
    "max_position_embeddings",
]


_NOT_NEGATIVE = [
    "num_experts",
    "num_shared_experts",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "first_k_dense_replace",
    "num_nextn_predict_layers",
    "rotary_dim",
    "moe_shared_expert_intermediate_size",
    "pad_token_id",
    "eos_token_id",
    "bos_token_id",
    "max_window_layers",
]


# A null here would silently become upstream's default, another model than the one that was trained.
_NEVER_NULL = [
    *(name for name in _POSITIVE if name != "head_dim"),
    "rope_theta",
    "rms_norm_eps",
    "routed_scaling_factor",
    "num_experts",
    "num_experts_per_tok",
    "num_shared_experts",
    "first_k_dense_replace",
]


_FLAGS = [
    "use_qkv_bias",
    "use_bias",
    "use_qk_norm",
    "use_rmsnorm",
    "tie_word_embeddings",
    "norm_topk_prob",
    "moe_router_enable_expert_bias",
    "use_cache",
    "output_router_logits",
]


_NUMBERS = [
    "rms_norm_eps",
    "rope_theta",
    "routed_scaling_factor",
    "initializer_range",
    "partial_rotary_factor",
    "mtp_loss_scaling_factor",
    "embedding_dropout",
    "attention_dropout",
    "output_dropout",
]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape and numerics of one BailingMoeV2 model (docs/concepts/model.md#configuration).

    `num_experts = 0` describes a dense model. Raises `ConfigError` for impossible values.
    """

    vocab_size: int = 157184
    hidden_size: int = 2048
    intermediate_size: int = 5120
    num_hidden_layers: int = 20
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 0
    hidden_act: str = "silu"
    use_qkv_bias: bool = False
    use_bias: bool = False
    use_qk_norm: bool = True
    use_rmsnorm: bool = True
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    output_dropout: float = 0.0
    initializer_range: float = 0.02
    max_position_embeddings: int = 32768
    rope_theta: float = 600000.0
    rope_scaling: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0
    rotary_dim: int = 0
    use_cache: bool = True
    max_window_layers: int = 20
    pad_token_id: int = 156892
    eos_token_id: int = 156892
    bos_token_id: int = 156891
    end_token_ids: tuple[int, ...] = ()
    """All ids of a file's `eos_token_id`, as they stand there, or `eos_token_id` alone."""
    num_experts: int = 256
    num_shared_experts: int = 1
    num_experts_per_tok: int = 8
    n_group: int = 8
    topk_group: int = 4
    moe_intermediate_size: int = 512
    moe_shared_expert_intermediate_size: int = 0
    first_k_dense_replace: int = 1
    output_router_logits: bool = False
    num_nextn_predict_layers: int = 0
    mtp_loss_scaling_factor: float = 0.0
    moe_router_enable_expert_bias: bool = True
    routed_scaling_factor: float = 1.0
    norm_topk_prob: bool = True
    score_function: str = "sigmoid"
    router_dtype: str = "fp32"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"

    def __post_init__(self) -> None:
        self._check_types()
        if self.eos_token_id not in self.end_token_ids:  # another end replaces the list
            object.__setattr__(self, "end_token_ids", (self.eos_token_id,))
        # Falsy sizes mean "derive it", as upstream's constructor has it.
        self._fill("head_dim", self.hidden_size // max(self.num_attention_heads, 1))
        if self.num_shared_experts:
            self._fill("moe_shared_expert_intermediate_size", self.moe_intermediate_size)
        if self.rotary_dim and self.head_dim:
            # Other engines read the fraction first, and take 1.0 where only channels are given.
            fraction = fraction_of(self.rotary_dim, self.head_dim)
            object.__setattr__(self, "partial_rotary_factor", fraction)
        # Upstream's converter writes 0 for "no groups".
        self._fill("n_group", 1)
        self._fill("topk_group", 1)
        self._check_values()

    def _fill(self, name: str, value: int) -> None:
        if not getattr(self, name):
            object.__setattr__(self, name, value)

    def _check_types(self) -> None:
        for name in _POSITIVE + _NOT_NEGATIVE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"`{name}` is {as_json(value)}, expected a whole number")
            if not 0 <= value < MAX_FIELD:
                raise ConfigError(f"`{name}` is {value}, expected 0 to {MAX_FIELD - 1}")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"`{name}` is {as_json(getattr(self, name))}, expected true or false"
                )
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"`{name}` is {as_json(value)}, expected a number")
            if not math.isfinite(value) or value < 0:
                raise ConfigError(f"`{name}` is {value}, expected a finite number of at least 0")

    def _check_values(self) -> None:
        for name in _POSITIVE:
            if name == "moe_intermediate_size" and self.num_experts == 0:
                continue
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` is {getattr(self, name)}, expected at least 1")
        if self.hidden_act != "silu":
            raise ConfigError(f"`hidden_act` is {as_json(self.hidden_act)}, only `silu` exists")
        if self.score_function != "sigmoid":
            raise ConfigError(
                f"`score_function` is {as_json(self.score_function)}, Ling 2.0 has `sigmoid`"
            )
        if not self.use_rmsnorm:
            raise ConfigError("`use_rmsnorm` is false, Ling 2.0 always uses RMSNorm")
        if self.router_dtype not in ("fp32", "float32", None):
            raise ConfigError(
                f"`router_dtype` is {as_json(self.router_dtype)}, the router runs in `fp32`"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"`dtype` is {as_json(self.dtype)}, expected bfloat16 or float32")
        if self.rms_norm_eps <= 0 or self.rope_theta <= 0:
            raise ConfigError("`rms_norm_eps` and `rope_theta` must be above 0")
        if self.num_cache_layers * max(self.num_experts, 1) > MAX_SLICES:
            raise ConfigError(
                f"{self.num_cache_layers} layers of `num_experts` = {self.num_experts}, the limit "
                f"is {MAX_SLICES} together"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"`num_attention_heads` = {self.num_attention_heads} is not a multiple of "
                f"`num_key_value_heads` = {self.num_key_value_heads}"
            )
        self._check_rotary()
        if self.num_experts:
            self._check_experts()
        elif self.num_nextn_predict_layers and not self.num_experts:
            raise ConfigError(
                "`num_nextn_predict_layers` needs experts: an MTP layer is always MoE"
            )

    def _check_rotary(self) -> None:
        r = self.rotary_size
        if self.head_dim % 2 or r % 2 or not 0 < r <= self.head_dim:
            raise ConfigError(
                f"`head_dim` = {self.head_dim} with {r} rotary channels: both must be even and "
                "the rotary part may not exceed the head"
            )
        if self.rope_scaling is None:
            return
        if not isinstance(self.rope_scaling, dict):
            raise ConfigError(f"`rope_scaling` is {as_json(self.rope_scaling)}, expected an object")
        kind = self.rope_scaling.get("rope_type", self.rope_scaling.get("type"))
        if kind not in ("yarn", "default"):
            raise ConfigError(f"`rope_scaling` has type {as_json(kind)}, expected `yarn`")
        for key, value in self.rope_scaling.items():
            if key in ("rope_type", "type", "truncate") or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"`rope_scaling.{key}` is {as_json(value)}, expected a number")
            if not math.isfinite(value) or value <= 0:
                raise ConfigError(f"`rope_scaling.{key}` is {value}, expected a number above 0")
        if kind == "yarn" and self.rope_scaling.get("factor") is None:
            raise ConfigError("`rope_scaling.factor` is missing")

    def _check_experts(self) -> None:
        e, groups, kept, k = (
            self.num_experts,
            self.n_group,
            self.topk_group,
            self.num_experts_per_tok,
        )
        if e % groups:
            raise ConfigError(f"`n_group` = {groups} does not divide `num_experts` = {e}")
        if kept > groups:
            raise ConfigError(f"`topk_group` = {kept} is above `n_group` = {groups}")
        if groups > 1 and e // groups < 2:
            raise ConfigError(f"`n_group` = {groups} leaves groups of fewer than 2 experts of {e}")
        if k < 1 or k > kept * (e // groups):
            raise ConfigError(
                f"`num_experts_per_tok` = {k}, but `topk_group` = {kept} groups keep "
                f"{kept * (e // groups)} experts; expected 1 to that"
            )

    # ---- derived sizes -------------------------------------------------------------------------

    @property
    def rotary_size(self) -> int:
        """Rotary channels per head: `rotary_dim`, else the fraction of the head."""
        return self.rotary_dim or int(self.head_dim * self.partial_rotary_factor)

    @property
    def shared_expert_width(self) -> int:
        """Width of the one MLP that all shared experts of a layer are stored as; 0 without any."""
        return self.moe_shared_expert_intermediate_size * self.num_shared_experts

    def with_shared_expert_width(self, width: int) -> ModelConfig:
        """The same with shared experts of that width together, where a reader of this
        configuration may mean it: vLLM's `moe_shared_expert_intermediate_size` is one expert's
        width, Megatron's is all experts' together, upstream's own code reads none.
        """
        count, field = self.num_shared_experts, self.moe_shared_expert_intermediate_size
        if width not in (field, self.moe_intermediate_size * count) or not count:
            return self
        each = {"moe_shared_expert_intermediate_size": width // count}
        if width % count:
            each = {"moe_shared_expert_intermediate_size": width, "num_shared_experts": 1}
        return self.replace(**each)

    @property
    def context_length(self) -> int:
        """Positions that requests may use: YaRN stretches those of training by its factor."""
        scaling, trained = self.rope_scaling or {}, self.max_position_embeddings
        if scaling.get("rope_type", scaling.get("type")) != "yarn":
            return trained
        original = scaling.get("original_max_position_embeddings") or trained
        return max(trained, int(min(original * scaling["factor"], MAX_FIELD)))

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together (values have the same)."""
        return self.num_key_value_heads * self.head_dim

    @property
    def num_cache_layers(self) -> int:
        """Attention layers that own a KV cache: the main ones, then the MTP ones."""
        return self.num_hidden_layers + self.num_nextn_predict_layers

    def is_moe_layer(self, layer: int) -> bool:
        """Whether decoder layer `layer` routes to experts; MTP layers always do."""
        if not self.num_experts:
            return False
        return layer >= min(self.first_k_dense_replace, self.num_hidden_layers)

    @property
    def moe_layers(self) -> list[int]:
        """The layers that route to experts, MTP layers included."""
        return [i for i in range(self.num_cache_layers) if self.is_moe_layer(i)]

    # ---- reading and writing -------------------------------------------------------------------

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ModelConfig:
        """Read a `config.json` object of any Ling 2.0 release, transformers 4 or 5.

        Unknown keys are ignored, as every loader of that format does. A Ling 1.x config and other
        architectures are refused by name.
        """
        architectures = raw.get("architectures") or []
        if not isinstance(architectures, list):
            raise ConfigError(f"`architectures` is {as_json(architectures)}, expected a list")
        if architectures and not any(str(a).startswith("BailingMoeV2") for a in architectures):
            raise ConfigError(
                f"`architectures` is {as_json(architectures)}, expected {ARCHITECTURE}"
            )
        model_type = raw.get("model_type")
        if model_type is not None and model_type not in MODEL_TYPES:
            raise ConfigError(f"`model_type` is {as_json(model_type)}, expected `bailing_moe`")
        check_quantization(raw)
        values = {f.name: raw[f.name] for f in dataclasses.fields(cls) if f.name in raw}
        null = {k for k, v in values.items() if v is None and k != "rope_scaling"}
        values = {k: v for k, v in values.items() if k not in null}
        values.pop("end_token_ids", None)
        size = values.get("vocab_size", cls.vocab_size)
        read_special_ids(values, size if isinstance(size, int) else cls.vocab_size)
        torch_dtype = raw.get("dtype") or raw.get("torch_dtype")
        if torch_dtype is not None:
            values["dtype"] = str(torch_dtype).removeprefix("torch.")
        read_rope_parameters(raw, values)
        values |= {k: 0 for k in ("n_group", "topk_group") if k in null}  # vLLM's "no groups"
        for name in _NEVER_NULL:
            if name in null and name not in values:
                raise ConfigError(f"`{name}` is null, expected a number")
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Read `config.json` at `path`; raises `ConfigError` naming the file."""
        path = Path(path)
        try:
            return cls.from_dict(read_raw(path))
        except ConfigError as err:
            raise ConfigError(f"{path}: {err}") from None

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` object, with every field that engines default differently."""
        values = dataclasses.asdict(self)
        values["torch_dtype"] = values.pop("dtype")
        ends = values.pop("end_token_ids")
        if len(ends) > 1:
            values["eos_token_id"] = list(ends)
        if not values["rotary_dim"]:
            del values["rotary_dim"]
        return {"architectures": [ARCHITECTURE], "model_type": "bailing_moe", **values}

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)


def fraction_of(channels: int, head_dim: int) -> float:
    """The `partial_rotary_factor` from which `int(head_dim * factor)` gives the channels back."""
    factor = channels / head_dim
    return factor if int(head_dim * factor) == channels else math.nextafter(factor, math.inf)
