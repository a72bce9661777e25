"""vLLM's entry point: what its release lacks for Ling 2.0 is registered, the rest is left alone.

vLLM calls `register` in each of its processes before it reads a model's configuration. Anything
unexpected is logged in one line and leaves vLLM as it was.
"""

from __future__ import annotations

import logging
from typing import Any, get_args

from ..config.model import ARCHITECTURE

MTP_ARCHITECTURE = "BailingMoeV2MTPModel"
# vLLM knows drafts by `model_type`. This one is its name for a draft of grouped-query attention
# and experts; the names of later Ling generations would turn on their latent attention.
DRAFT_MODEL_TYPE = "glm4_moe_mtp"
_NATIVE_MODULE = "vllm.model_executor.models.bailing_moe"

log = logging.getLogger("vllm.ling")


def register() -> None:
    """Register configuration class, model class and MTP draft, each unless vLLM has it."""
    try:
        from ..plugins import hf_config

        hf_config.register()
        if _register_model():
            _register_mtp()
    except Exception as err:
        log.warning("ling stands back, vLLM continues without it: %s: %s", type(err).__name__, err)


def _register_model() -> bool:
    """Put our class in the native one's place; False when this vLLM needs no help or is unknown."""
    from vllm import ModelRegistry

    models = ModelRegistry.models
    if MTP_ARCHITECTURE in models:
        if not _is_ours(models[MTP_ARCHITECTURE]):
            log.info("ling stands back: this vLLM has %s", MTP_ARCHITECTURE)
        return False
    native = getattr(models.get(ARCHITECTURE), "module_name", None)
    if native != _NATIVE_MODULE:
        log.warning("ling stands back: vLLM's %s is in %s", ARCHITECTURE, native)
        return False
    ModelRegistry.register_model(ARCHITECTURE, f"{__package__}.vllm_models:{ARCHITECTURE}")
    return True


def _is_ours(model: Any) -> bool:
    return str(getattr(model, "module_name", "")).startswith(f"{__package__}.")


def _register_mtp() -> None:
    from vllm import ModelRegistry
    from vllm.config import speculative

    if DRAFT_MODEL_TYPE not in get_args(speculative.MTPModelTypes):
        log.warning("no MTP for Ling: this vLLM has no draft type %s", DRAFT_MODEL_TYPE)
        return
    config = speculative.SpeculativeConfig
    config.hf_config_override_before_ling = staticmethod(config.hf_config_override)
    config.hf_config_override = staticmethod(draft_config)
    ModelRegistry.register_model(MTP_ARCHITECTURE, f"{__package__}.vllm_mtp:{MTP_ARCHITECTURE}")


def draft_config(hf_config: Any) -> Any:
    """vLLM's hook from a target's configuration to its draft's, which Ling 2.0 joins here.

    A function of this module because vLLM sends it to other processes by name. Only the first
    MTP layer drafts, again and again: deeper ones would need a cache of the prompt of their own.
    """
    if ARCHITECTURE not in (getattr(hf_config, "architectures", None) or []):
        from vllm.config.speculative import SpeculativeConfig

        return SpeculativeConfig.hf_config_override_before_ling(hf_config)
    if not getattr(hf_config, "num_nextn_predict_layers", 0):
        return hf_config  # no MTP layer: this model may still draft for a larger one
    hf_config.update(
        {
            "model_type": DRAFT_MODEL_TYPE,
            "architectures": [MTP_ARCHITECTURE],
            "num_nextn_predict_layers": 1,
            "n_predict": 1,
        }
    )
    return hf_config
