"""Keys of our own checkpoints: the module's names under `model.`."""

from __future__ import annotations

from ...config.model import ModelConfig
from ...model.names import in_module, tensor_specs

MODEL_PREFIX = "model."


def dcp_places(cfg: ModelConfig) -> dict[str, tuple[str, int | None, tuple[int, ...]]]:
    """Key, slice of the stack and shape of the whole, by Hugging Face name."""
    places = {}
    for name, spec in tensor_specs(cfg).items():
        key, expert = in_module(name)
        shape = spec.shape if expert is None else (cfg.num_experts, *spec.shape)
        places[name] = (MODEL_PREFIX + key, expert, shape)
    return places
