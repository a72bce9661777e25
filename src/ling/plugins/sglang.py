"""SGLang's entry point: teaches it the configuration; its own classes run Ling 2.0 and its MTP.

Anything unexpected is logged in one line and leaves SGLang as it was.
"""

from __future__ import annotations

import logging

log = logging.getLogger("sglang.ling")


def register() -> None:
    """Register the configuration class, unless SGLang or transformers has one of its own."""
    try:
        _register_config()
    except Exception as err:
        log.warning(
            "ling stands back, SGLang continues without it: %s: %s", type(err).__name__, err
        )


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from ..plugins import hf_config
    from .sglang_config import SGLangConfig

    hf_config.register()
    for model_type in hf_config.MODEL_TYPES:
        held = CONFIG_MAPPING[model_type]
        if issubclass(held, hf_config.BailingMoeV2Config):
            CONFIG_MAPPING.register(model_type, SGLangConfig, exist_ok=True)
        else:
            log.info("ling stands back: %s is %s", model_type, held)
