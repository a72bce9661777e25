"""Adapters with a tensor for each expert, as peft finds them in our transformers class.

peft wraps a stack of experts in a module for each of its matrices, one in another, and keeps the
adapter flat: rows of A are (expert, rank), columns of B (rank, expert).
Legend: E experts · r rank · O output features.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.adapter.names import PREFIX
from ..checkpoint.raw.safetensors import SafetensorsFile

_OF_EXPERT = re.compile(
    r"(.*\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.(lora_[AB])(\.[^.]+)?\.weight"
)
_NAMED = re.compile(r".*\.lora_[AB]\.([^.]+)\.weight")


def stack_for_peft(
    module: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: Any
) -> None:
    """A `load_state_dict` pre-hook: tensors of single experts become those of peft's wrappers.

    peft puts the adapter's name into keys that it knows; these it does not, so that the name is
    taken from others, or is that of the adapter added last.
    """
    names = {match[1] for key in state if (match := _NAMED.fullmatch(key)) is not None}
    _stack(module, state, prefix, lambda adapters: f".{_one_of(adapters, names)}")


def _one_of(adapters: list[str], names: set[str]) -> str:
    return next((name for name in names if name in adapters), adapters[-1])


def read_adapter_state(module: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """The tensors of an adapter's safetensors file, those of experts stacked for `module`."""
    file = SafetensorsFile(Path(path))
    state = {name: file.read(name) for name in file.entries}
    _stack(module, state, PREFIX, lambda _: "")
    return state


def _stack(module: nn.Module, state: MutableMapping[str, Any], prefix: str, name_of: Any) -> None:
    """Replace tensors of single experts. Incomplete stacks, and those without a wrapper, stay, so
    that their keys are reported.
    """
    stacks: dict[tuple[str, ...], dict[int, str]] = defaultdict(dict)
    for key in state:
        match = _OF_EXPERT.fullmatch(key.removeprefix(prefix))
        if match is not None:
            experts, number, matrix, side, name = match.groups(default="")
            stacks[experts, matrix, side, name][int(number)] = key
    for (experts, matrix, side, name), keys in stacks.items():
        path = _path(module.get_submodule(experts), matrix)
        if path is not None and sorted(keys) == list(range(len(keys))):
            wrapper: Any = module.get_submodule(experts + path)
            name = name or name_of(list(wrapper.lora_A))
            parts = [state.pop(keys[e]) for e in range(len(keys))]
            state[f"{prefix}{experts}{path}.{side}{name}.weight"] = _flat(torch.stack(parts), side)


def _path(experts: Any, matrix: str) -> str | None:
    """Where below `experts` the wrapper of a matrix is; None where it has none."""
    path = ""
    while hasattr(experts, "parameter_name"):
        if experts.parameter_name == matrix:
            return path
        experts, path = experts.base_layer, f"{path}.base_layer"
    return None


def _flat(stack: Tensor, side: str) -> Tensor:
    """[E, r, in] to [E·r, in], and [E, O, r] to [O, r·E]."""
    return stack.flatten(0, 1) if side == "lora_A" else stack.permute(1, 2, 0).flatten(1)
