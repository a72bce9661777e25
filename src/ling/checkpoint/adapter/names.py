"""Tensors of an adapter on disk: one for each expert, or peft's stacks.

`base_model.model.model.layers.3.mlp.experts.7.gate_proj.lora_A.weight` is what we write and what
vLLM, SGLang and the original modelling code take. peft names the stacks of our transformers class
by how its wrappers are nested: `…experts.base_layer.lora_A.weight`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ...model.names import in_module

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B = "lora_A", "lora_B"
MATRICES = ("gate_proj", "up_proj", "down_proj")
"""Of a stack of experts, in the order in which peft wraps them: the last one is outermost."""

_KEY = re.compile(
    r"(?:base_model\.model\.)?(.{1,300})\.(lora_[AB])(?:\.default)?\.weight", re.ASCII
)
_NESTED = re.compile(r"(.*\.mlp\.experts)((?:\.base_layer){0,2})")
_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.(.+)")


class Key(NamedTuple):
    """What a tensor of an adapter belongs to.

    `name` is one of `adapter_targets`, or with a `depth` (of peft's wrappers, 0 outermost) that of
    the experts whose stacks are nested; `expert` is set where each has a tensor of its own.
    """

    name: str
    side: str
    expert: int | None = None
    depth: int | None = None


def key_of(name: str, side: str, expert: int | None = None) -> str:
    """The tensor's name on disk, of one expert for a stack."""
    module = name if expert is None else module_of(name, expert)
    return f"{PREFIX}{module}.{side}.weight"


def module_of(stack: str, expert: int) -> str:
    """The name that one expert of a stack has in released checkpoints."""
    experts, _, matrix = stack.rpartition(".")
    return f"{experts}.{expert}.{matrix}"


def parse(key: str) -> Key | None:
    """What the tensor `key` is; None for one that is no A and no B of a matrix."""
    if (match := _KEY.fullmatch(key)) is None:
        return None
    module, side = match.groups()
    if (nested := _NESTED.fullmatch(module)) is not None:
        return Key(nested[1], side, depth=nested[2].count("."))
    name, expert = in_module(f"{module}.weight")
    return Key(module if expert is None else name, side, expert)


def layer_of(name: str) -> tuple[int, str] | None:
    """Number of the layer in which a matrix is, and its name there."""
    match = _LAYER.match(name)
    return (int(match[1]), match[2]) if match else None
