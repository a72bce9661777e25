"""Keys of checkpoints in torch DCP: the module's names or the released ones, under some prefix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...config.model import ModelConfig
from ...model.names import in_module, tensor_specs
from ..slices import Slice, of_stack, whole_tensor
from ..stored import EMBEDDING, WRAPPERS

MODEL_PREFIX = "model."


def dcp_slices(cfg: ModelConfig) -> dict[str, Slice]:
    """Where every tensor of `tensor_specs(cfg)` is in our own checkpoints, by released name."""
    slices = {}
    for name, spec in tensor_specs(cfg).items():
        key, expert = in_module(name)
        slices[name] = of_stack(MODEL_PREFIX + key, expert, cfg.num_experts, spec.shape)
    return slices


def found_slices(cfg: ModelConfig, keys: Mapping[str, str]) -> dict[str, Slice]:
    """`dcp_slices` among the `model_keys` of a checkpoint: experts may be in one stack a layer, as
    ours are, or a tensor each, as released. What is missing has the place it has in ours.
    """
    slices = dcp_slices(cfg)
    for name, spec in tensor_specs(cfg).items():
        module_name, expert = in_module(name)
        if module_name in keys:
            slices[name] = of_stack(keys[module_name], expert, cfg.num_experts, spec.shape)
        elif name in keys:
            slices[name] = whole_tensor(keys[name], spec.shape)
    return slices


def model_keys(keys: Iterable[str]) -> dict[str, str]:
    """The checkpoint's keys of the model, by their names in the module or in a released folder.

    A trainer saves a state by itself or under a word (`model`, `state_dict`), and what wraps a
    module adds words of its own. Moments of an optimizer repeat the names behind other prefixes.
    """
    plain = {WRAPPERS.sub("", key): key for key in keys}
    prefixes = [key.removesuffix(EMBEDDING) for key in plain if key.endswith(EMBEDDING)]
    prefix = min((p for p in prefixes if "optim" not in p), key=len, default=MODEL_PREFIX)
    return {k.removeprefix(prefix): key for k, key in plain.items() if k.startswith(prefix)}
