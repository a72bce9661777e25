"""The model configuration and the pretraining recipe: frozen dataclasses, checked when made.

Field names of `ModelConfig` are those of the released `config.json`; defaults are upstream's
constructor defaults. Recipe classes are the one schema behind YAML files and command-line flags.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigError, UsageError
from .strict_json import loads

ARCHITECTURE = "BailingMoeV2ForCausalLM"
MODEL_TYPES = ("bailing_moe", "bailing_moe_v2", "bailing_moe_linear_v2")
MAX_CONFIG_BYTES = 1 << 20
QUANT_METHODS = ("fp8", "ling")
# The one FP8 scheme of the released models (spec: checkpoints §3); a key left out means this.
FP8_SCHEME: dict[str, Any] = {"fmt": "e4m3", "weight_block_size": [128, 128]}
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
    """Shape and numerics of one BailingMoeV2 model (spec: architecture §1).

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
        # Falsy sizes mean "derive it", as upstream's constructor has it.
        self._fill("head_dim", self.hidden_size // max(self.num_attention_heads, 1))
        self._fill(
            "moe_shared_expert_intermediate_size",
            self.moe_intermediate_size * self.num_shared_experts,
        )
        # Converted checkpoints write 0 for "no groups" (spec: checkpoints §4).
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
                raise ConfigError(f"`{name}` is {_shown(value)}, expected a whole number")
            if not 0 <= value < MAX_FIELD:
                raise ConfigError(f"`{name}` is {value}, expected 0 to {MAX_FIELD - 1}")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"`{name}` is {_shown(getattr(self, name))}, expected true or false"
                )
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"`{name}` is {_shown(value)}, expected a number")
            if not math.isfinite(value) or value < 0:
                raise ConfigError(f"`{name}` is {value}, expected a finite number of at least 0")

    def _check_values(self) -> None:
        for name in _POSITIVE:
            if name == "moe_intermediate_size" and self.num_experts == 0:
                continue
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` is {getattr(self, name)}, expected at least 1")
        if self.hidden_act != "silu":
            raise ConfigError(f"`hidden_act` is {_shown(self.hidden_act)}, only `silu` exists")
        if self.score_function != "sigmoid":
            raise ConfigError(
                f"`score_function` is {_shown(self.score_function)}, Ling 2.0 has `sigmoid`"
            )
        if not self.use_rmsnorm:
            raise ConfigError("`use_rmsnorm` is false, Ling 2.0 always uses RMSNorm")
        if self.router_dtype not in ("fp32", "float32", None):
            raise ConfigError(
                f"`router_dtype` is {_shown(self.router_dtype)}, the router runs in `fp32`"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"`dtype` is {_shown(self.dtype)}, expected bfloat16 or float32")
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
            raise ConfigError(f"`rope_scaling` is {_shown(self.rope_scaling)}, expected an object")
        kind = self.rope_scaling.get("rope_type", self.rope_scaling.get("type"))
        if kind not in ("yarn", "default"):
            raise ConfigError(f"`rope_scaling` has type {_shown(kind)}, expected `yarn`")
        for key, value in self.rope_scaling.items():
            if key in ("rope_type", "type", "truncate") or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"`rope_scaling.{key}` is {_shown(value)}, expected a number")
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

    # ---- reading and writing -------------------------------------------------------------------

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ModelConfig:
        """Read a `config.json` object of any Ling 2.0 release, transformers 4 or 5.

        Unknown keys are ignored, as every loader of that format does. A Ling 1.x config and other
        architectures are refused by name.
        """
        architectures = raw.get("architectures") or []
        if not isinstance(architectures, list):
            raise ConfigError(f"`architectures` is {_shown(architectures)}, expected a list")
        if architectures and not any(str(a).startswith("BailingMoeV2") for a in architectures):
            raise ConfigError(
                f"`architectures` is {_shown(architectures)}, expected {ARCHITECTURE}"
            )
        model_type = raw.get("model_type")
        if model_type is not None and model_type not in MODEL_TYPES:
            raise ConfigError(f"`model_type` is {_shown(model_type)}, expected `bailing_moe`")
        check_quantization(raw)
        values = {f.name: raw[f.name] for f in dataclasses.fields(cls) if f.name in raw}
        nullable = ("rope_scaling",)
        values = {k: v for k, v in values.items() if v is not None or k in nullable}
        if isinstance(values.get("eos_token_id"), list) and values["eos_token_id"]:
            values["eos_token_id"] = values["eos_token_id"][0]
        torch_dtype = raw.get("dtype") or raw.get("torch_dtype")
        if torch_dtype is not None:
            values["dtype"] = str(torch_dtype).removeprefix("torch.")
        _read_rope_parameters(raw, values)
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
        if not values["rotary_dim"]:
            del values["rotary_dim"]
        return {"architectures": [ARCHITECTURE], "model_type": "bailing_moe", **values}

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed, checked anew."""
        return dataclasses.replace(self, **changes)


def read_raw(path: Path) -> dict[str, Any]:
    """The object in a `config.json`; `ConfigError` says why there is none."""
    try:
        if not path.is_file():
            raise ConfigError("no such file")
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"larger than {MAX_CONFIG_BYTES} bytes")
        raw = loads(path.read_bytes())
    except ConfigError:
        raise
    except ValueError as err:
        raise ConfigError(str(err)) from None
    except OSError as err:
        raise ConfigError(str(err.strerror)) from None
    if not isinstance(raw, dict):
        raise ConfigError("expected a JSON object")
    return raw


def check_quantization(raw: dict[str, Any]) -> dict[str, Any] | None:
    """`quantization_config` of a `config.json`, or None; `ConfigError` for what we cannot read."""
    quantization = raw.get("quantization_config")
    if quantization is None:
        return None
    if not isinstance(quantization, dict):
        raise ConfigError(f"`quantization_config` is {_shown(quantization)}, expected an object")
    method = quantization.get("quant_method")
    if method not in QUANT_METHODS:
        raise ConfigError(
            f"`quantization_config.quant_method` is {_shown(method)}, "
            f"expected {' or '.join(QUANT_METHODS)}"
        )
    for key, value in FP8_SCHEME.items() if method == "fp8" else ():
        if quantization.get(key, value) != value:
            raise ConfigError(
                f"`quantization_config.{key}` is {_shown(quantization[key])}, expected {value}"
            )
    return quantization


def _read_rope_parameters(raw: dict[str, Any], values: dict[str, Any]) -> None:
    """Accept transformers 5's `rope_parameters` where the older fields are absent."""
    new = raw.get("rope_parameters")
    if not isinstance(new, dict):
        return
    for key in ("rope_theta", "partial_rotary_factor"):
        if new.get(key) is not None:
            values.setdefault(key, new[key])
    kind = new.get("rope_type", new.get("type", "default"))
    if kind != "default" and values.get("rope_scaling") is None:
        values["rope_scaling"] = {
            k: v for k, v in new.items() if k not in ("rope_theta", "partial_rotary_factor")
        }


def _shown(value: object) -> str:
    """A value for an error line: short, printable, quoted."""
    text = json.dumps(value, default=repr)
    return f"`{text[:60]}`" if len(text) <= 60 else f"`{text[:60]}`..."


# ---- the pretraining recipe --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where training tokens come from."""

    corpus: str | None = None
    """`stdlib`, or a jsonl file, text file or folder; prepared into `<out>/data` on first use."""
    corpus_bytes: int | None = None
    """Take about this many bytes of the corpus (spread evenly over its files)."""
    vocab_size: int = 4096
    """Size of the tokenizer trained for `corpus` when no `tokenizer` is given."""
    tokenizer: str | None = None
    """Folder of an existing Hugging Face tokenizer."""
    prefix: list[str] = field(default_factory=list)
    """Megatron `.bin/.idx` prefixes to train on, instead of `corpus`."""
    weights: list[float] | None = None
    """Share of each prefix in the mixture; by default in proportion to their tokens."""
    valid_prefix: list[str] = field(default_factory=list)
    """Prefixes for the held-out loss."""
    seq_length: int = 1024
    """Tokens per row."""
    eod_mask_loss: bool = True
    """No loss where the input is the end-of-document token."""
    isolate_documents: bool = False
    """Mask attention, restart positions and drop targets across document borders."""

    def __post_init__(self) -> None:
        _at_least("data.seq_length", self.seq_length, 2)
        _at_least("data.vocab_size", self.vocab_size, 1)
        if self.corpus_bytes is not None:
            _at_least("data.corpus_bytes", self.corpus_bytes, 1)
        if bool(self.corpus) == bool(self.prefix):
            raise UsageError("give either `data.corpus` or `data.prefix`, not both and not neither")
        if self.weights is not None:
            if len(self.weights) != len(self.prefix):
                raise UsageError(
                    f"`data.weights` has {len(self.weights)} entries for {len(self.prefix)} "
                    "entries of `data.prefix`"
                )
            if not all(math.isfinite(w) and w > 0 for w in self.weights):
                raise UsageError("`data.weights` must be above 0")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: int = 1000
    """Optimizer steps in all."""
    global_batch_size: int = 16
    """Rows per optimizer step, over all ranks."""
    micro_batch_size: int = 4
    """Rows per forward pass on one rank."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type; parameters and optimizer state stay in float32."""
    seed: int = 42
    """Seed of initialisation and sample order."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    z_loss_coef: float = 3.5e-6
    """Router z-loss coefficient."""
    mtp_loss_weight: float = 0.1
    """Weight of the MTP loss."""
    bias_update_rate: float = 1e-3
    """Step of the auxiliary-loss-free expert bias; 0 freezes it."""
    bias_zero_mean: bool = True
    """Keep the sum of each layer's expert bias constant."""
    threads: int | None = None
    """CPU threads; by default torch's own choice."""
    eval_interval_steps: int = 0
    """Measure held-out loss every so many steps; 0 means only at the end."""
    eval_rows: int = 16
    """Rows of held-out data per measurement."""
    max_nonfinite: int = 5
    """Stop after so many steps in a row without a finite loss or gradient."""

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch_size", "micro_batch_size", "eval_rows"):
            _at_least(f"train.{name}", getattr(self, name), 1)
        _at_least("train.eval_interval_steps", self.eval_interval_steps, 0)
        _at_least("train.max_nonfinite", self.max_nonfinite, 1)
        if self.threads is not None:
            _at_least("train.threads", self.threads, 1)
        for name in ("grad_clip", "z_loss_coef", "mtp_loss_weight", "bias_update_rate"):
            _at_least(f"train.{name}", getattr(self, name), 0)
        if self.global_batch_size % self.micro_batch_size:
            raise UsageError(
                f"`train.global_batch_size` = {self.global_batch_size} is not a multiple of "
                f"`train.micro_batch_size` = {self.micro_batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = 3e-4
    """Peak learning rate."""
    lr_min: float = 0.0
    """Learning rate at the end of a cosine schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """`constant` is the WSM schedule: no decay, merge checkpoints afterwards (`ling merge`)."""
    warmup_steps: int = 0
    """Linear warm-up."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; vectors and biases have none."""

    def __post_init__(self) -> None:
        for name in ("lr", "lr_min", "weight_decay"):
            _at_least(f"optim.{name}", getattr(self, name), 0)
        _at_least("optim.warmup_steps", self.warmup_steps, 0)
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1) or not self.eps > 0:
            raise UsageError("`optim.beta1` and `optim.beta2` lie in [0, 1), `optim.eps` above 0")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept."""

    interval_steps: int = 500
    """Save every so many steps, and always at the end."""
    keep_last: int = 2
    """Keep the newest so many; 0 keeps all."""

    def __post_init__(self) -> None:
        _at_least("checkpoint.interval_steps", self.interval_steps, 1)
        _at_least("checkpoint.keep_last", self.keep_last, 0)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pretraining recipe."""

    model: str
    """Preset name, or a folder with config.json (its weights are the start when it has them)."""
    model_overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of config.json to change, such as `num_hidden_layers`."""
    data: DataConfig
    """Where training tokens come from."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW and its learning-rate schedule."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written and which are kept."""


def recipe_yaml(recipe: PretrainConfig) -> str:
    """The recipe with every key, as `check_recipe_file` takes it."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False)


def check_recipe_file(path: str | Path, kind: type = PretrainConfig) -> None:
    """Refuse a recipe file that is not YAML of `kind`'s keys, naming the line or the key."""
    import yaml

    try:
        tree = yaml.safe_load(Path(path).read_bytes().decode("utf-8"))
    except (OSError, UnicodeDecodeError) as err:
        raise UsageError(f"{path}: not a text file ({type(err).__name__})") from None
    except (yaml.YAMLError, RecursionError) as err:
        mark = getattr(err, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise UsageError(f"{path}{line}: not YAML ({getattr(err, 'problem', err)})") from None
    _check_keys(kind, tree, str(path), "")


def _check_keys(kind: Any, tree: Any, path: str, prefix: str) -> None:
    """Descend into the sections; the values themselves are checked when the recipe is made."""
    if not isinstance(tree, dict):
        where = f"`{prefix[:-1]}` is {_shown(tree)}, " if prefix else ""
        raise UsageError(
            f"{path}: {where}expected keys such as `{dataclasses.fields(kind)[0].name}:`"
        )
    sections = typing.get_type_hints(kind)
    for key, value in tree.items():
        if key not in sections:
            raise UsageError(f"{path}: no key `{prefix}{key}`{nearest(str(key), list(sections))}")
        if dataclasses.is_dataclass(sections[key]):
            _check_keys(sections[key], value, path, f"{prefix}{key}.")


def _at_least(name: str, value: float, least: float) -> None:
    if not math.isfinite(value) or value < least:
        raise UsageError(f"`{name}` is {value}, expected a number of at least {least}")


def nearest(word: str, known: list[str]) -> str:
    """` (did you mean `x`?)` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""
