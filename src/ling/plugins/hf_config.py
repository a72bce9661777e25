"""The configuration class that transformers, vLLM and SGLang ask `AutoConfig` for.

Imports transformers, which `import ling` does not: only plugins load this file.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.configuration_utils import PretrainedConfig

from ..config import ARCHITECTURE, ModelConfig

MODEL_TYPE = "bailing_moe"
# A file's own values stay: a list of end tokens, and whatever `ModelConfig` has no word for.
_KEPT = ("architectures", "model_type", "eos_token_id")


class BailingMoeV2Config(PretrainedConfig):
    """A Ling 2.0 `config.json`, with every field that engines default differently filled in.

    The model type `bailing_moe` is also that of Ling 1.x: such a file keeps its own fields, none
    is added, so that an engine's class for it finds what its authors wrote.
    """

    model_type = MODEL_TYPE
    # transformers 5 collects the rotary fields here when the attribute exists.
    rope_parameters: dict[str, Any] | None = None

    def __init__(self, **kwargs: Any) -> None:
        architectures = kwargs.get("architectures") or [ARCHITECTURE]
        if any(str(a).startswith("BailingMoeV2") for a in architectures):
            kwargs = _completed(kwargs)
        else:
            kwargs.setdefault("head_dim", None)
        super().__init__(**kwargs)


def _completed(raw: dict[str, Any]) -> dict[str, Any]:
    cfg = ModelConfig.from_dict({k: v for k, v in raw.items() if k != "model_type"})
    full = cfg.to_dict()
    # SGLang reads the fraction first, vLLM the number of channels: both say the same.
    full["partial_rotary_factor"] = cfg.rotary_size / cfg.head_dim
    full["rotary_dim"] = cfg.rotary_size
    kept = {k: v for k, v in raw.items() if k in _KEPT or k not in full}
    kept.pop("rope_parameters", None)  # read into `rope_theta` and its neighbours
    return {**full, **kept}


def register_config(config_class: type[BailingMoeV2Config] = BailingMoeV2Config) -> bool:
    """Teach `AutoConfig` the model type; False when a release has its own class, which stays."""
    from transformers import CONFIG_MAPPING

    if MODEL_TYPE in CONFIG_MAPPING and not issubclass(
        CONFIG_MAPPING[MODEL_TYPE], BailingMoeV2Config
    ):
        return False
    AutoConfig.register(MODEL_TYPE, config_class, exist_ok=True)
    return True
