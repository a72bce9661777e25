"""The configuration class that transformers, vLLM and SGLang ask `AutoConfig` for.

Imports transformers, which `import ling` does not: only plugins load this file.
"""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..config import ARCHITECTURE, ModelConfig

# Released checkpoints say the first, which is also Ling 1.x's; third parties say the second.
MODEL_TYPES = ("bailing_moe", "bailing_moe_v2")
# A file's own values stay: a list of end tokens, and whatever `ModelConfig` has no word for.
_KEPT = ("architectures", "model_type", "eos_token_id")


class BailingMoeV2Config(PretrainedConfig):
    """A Ling 2.0 `config.json`, with every field that engines default differently filled in.

    The model type `bailing_moe` is also that of Ling 1.x: such a file keeps its own fields, none
    is added, so that an engine's class for it finds what its authors wrote.
    """

    model_type = MODEL_TYPES[0]
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


def _completed(raw: dict[str, Any]) -> dict[str, Any]:
    cfg = ModelConfig.from_dict({k: v for k, v in raw.items() if k != "model_type"})
    full = cfg.to_dict()
    full.setdefault("rotary_dim", None)
    # SGLang reads the fraction even where the file has only the number of channels, as Ling-1T's.
    full["partial_rotary_factor"] = cfg.rotary_size / cfg.head_dim
    kept = {k: v for k, v in raw.items() if k in _KEPT or k not in full}
    kept.pop("rope_parameters", None)  # read into `rope_theta` and its neighbours
    return {**full, **kept}


def register() -> None:
    """Teach `AutoConfig` both model types; a class that has one of them already stays."""
    for model_type in MODEL_TYPES:
        if model_type not in CONFIG_MAPPING:
            CONFIG_MAPPING.register(model_type, BailingMoeV2Config)
