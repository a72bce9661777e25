"""config.json of a model folder, and the two files through which transformers finds our classes.

transformers asks for remote code when it does not know a model type; these files hold none: they
import `ling`. Without it the configuration is a plain holder of config.json's fields, all that vLLM
and SGLang want, and the model says how to get `ling`. Our own loaders never run them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...config.model import ARCHITECTURE, ModelConfig

_CONFIG, _MODEL = "configuration_bailing_moe_v2", "modeling_bailing_moe_v2"
AUTO_MAP = {
    "AutoConfig": f"{_CONFIG}.BailingMoeV2Config",
    "AutoModelForCausalLM": f"{_MODEL}.{ARCHITECTURE}",
}
# transformers looks for missing packages outside of `try`, so these are what answers.
_CONFIG_DOOR = '''"""Door to the package `ling`; without it, the fields of config.json."""

try:
    from ling.plugins.hf_config import BailingMoeV2Config
except ImportError:
    from transformers.configuration_utils import PretrainedConfig

    class BailingMoeV2Config(PretrainedConfig):
        model_type = "bailing_moe"
        rope_parameters = None  # where transformers 5 puts the rotary fields


__all__ = ["BailingMoeV2Config"]
'''
_MODEL_DOOR = '''"""Door to the package `ling`, which holds the model's code; there is none here."""

try:
    from ling.plugins.hf_model import BailingMoeV2ForCausalLM
except ImportError as err:
    raise ImportError(
        "this model runs on the package `ling` (Ling 2.0): install it as its README says, "
        "then `import ling` makes this folder load without trust_remote_code"
    ) from err

__all__ = ["BailingMoeV2ForCausalLM"]
'''


def door_files() -> dict[str, str]:
    """The files that `AUTO_MAP` names: name and text."""
    return {f"{_CONFIG}.py": _CONFIG_DOOR, f"{_MODEL}.py": _MODEL_DOOR}


def config_files(values: Mapping[str, Any]) -> dict[str, str]:
    """Name and text of config.json with these values and `auto_map`, and of the auto_map files."""
    config = json.dumps({**values, "auto_map": AUTO_MAP}, indent=2) + "\n"
    return {"config.json": config, **door_files()}


def write_config(cfg: ModelConfig, folder: Path, **extra: Any) -> None:
    """Write `config_files` of `cfg` and `extra` keys into a folder."""
    for name, text in config_files({**cfg.to_dict(), **extra}).items():
        (folder / name).write_text(text, "utf-8")
