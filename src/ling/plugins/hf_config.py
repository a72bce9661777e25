"""The configuration class that transformers, vLLM and SGLang ask `AutoConfig` for.

Imports transformers, which `import ling` does not: only plugins load this file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..checkpoint.hf.auto_map import write_config
from ..config.model import ARCHITECTURE, ModelConfig
from ..errors import ConfigError
from .hf_release import MODEL_TYPES

# A file's own values stay: a list of end tokens, and whatever `ModelConfig` has no word for.
_KEPT = ("architectures", "model_type", "eos_token_id")


class BailingMoeV2Config(PretrainedConfig):
    """A Ling 2.0 `config.json`, with every field that engines default differently filled in.

    The model type `bailing_moe` is also that of Ling 1.x: such a file keeps its own fields, none
    is added, so that an engine's class for it finds what its authors wrote; ours refuses it.
    """

    model_type = MODEL_TYPES[0]
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "past_key_values",
        "cache",
        "mtp_loss",
        "mtp_logits",
        "router_logits",
    ]
    # transformers 5 collects the rotary fields here when the attribute exists.
    rope_parameters: dict[str, Any] | None = None

    def __init__(self, **kwargs: Any) -> None:
        architectures = kwargs.get("architectures") or [ARCHITECTURE]
        if any(str(a).startswith("BailingMoeV2") for a in architectures):
            kwargs = _completed(kwargs)
        else:
            kwargs.setdefault("head_dim", None)
        # transformers 5 reads this one while it puts the rotary fields together.
        self.max_position_embeddings = kwargs.get("max_position_embeddings")
        super().__init__(**kwargs)
        # transformers 5 takes this for a setting of generation and drops it.
        self.use_cache = kwargs.get("use_cache", True)
        # transformers 5 moves it into `rope_parameters`; SGLang reads it here.
        if "partial_rotary_factor" in kwargs:
            self.partial_rotary_factor = kwargs["partial_rotary_factor"]

    def ling(self) -> ModelConfig:
        """Our configuration of the values as they are now; `ConfigError` for Ling 1.x."""
        if any(a == "BailingMoeForCausalLM" for a in self.architectures or ()):
            raise ConfigError(
                "config.json: `architectures` is BailingMoeForCausalLM, a Ling 1.x model; "
                "`ling` runs Ling 2.0 (BailingMoeV2ForCausalLM)"
            )
        names = {f.name for f in dataclasses.fields(ModelConfig)} | {"architectures"}
        if self.rope_parameters:  # transformers 5: these hold what was set last
            names -= {"rope_theta", "rope_scaling", "partial_rotary_factor"}
            names |= {"rope_parameters"}
        return ModelConfig.from_dict({n: getattr(self, n, None) for n in names})

    def save_pretrained(
        self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the released layout: every field by its old name, and our `auto_map`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_config(self.ling(), folder, eos_token_id=self.eos_token_id)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: the class lives in `ling`, no copy of its file goes into a folder."""


def _completed(raw: dict[str, Any]) -> dict[str, Any]:
    cfg = ModelConfig.from_dict({k: v for k, v in raw.items() if k != "model_type"})
    full = cfg.to_dict()
    full.setdefault("rotary_dim", None)
    # SGLang reads the fraction even where the file has only the number of channels, as Ling-1T's.
    full["partial_rotary_factor"] = cfg.rotary_size / cfg.head_dim
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if name not in raw and full[name] >= full["vocab_size"]:
            full[name] = None  # the family's default, which a small vocabulary does not hold
    kept = {k: v for k, v in raw.items() if k in _KEPT or k not in full}
    kept.pop("rope_parameters", None)  # read into `rope_theta` and its neighbours
    return {**full, **kept}


def register() -> None:
    """Teach `AutoConfig` both model types; a class that has one of them already stays."""
    for model_type in MODEL_TYPES:
        if model_type not in CONFIG_MAPPING:
            CONFIG_MAPPING.register(model_type, BailingMoeV2Config)
