"""The two kinds of recipes, and their values by dotted keys such as `train.steps`."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from .recipe import PretrainConfig
from .sft import SFTConfig

Recipe = PretrainConfig | SFTConfig


def default_of(key: str, kind: type = PretrainConfig) -> Any:
    """What a recipe of a kind means that was written before `key` existed."""
    at: Any = kind
    for part in key.split("."):
        field = next((f for f in dataclasses.fields(at) if f.name == part), None)
        if field is None:
            return None
        if field.default is not dataclasses.MISSING:
            return field.default
        hint, factory = typing.get_type_hints(at)[part], field.default_factory
        if not dataclasses.is_dataclass(hint):
            return factory() if callable(factory) else None
        at = hint
    return None


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted keys of a recipe as nested dictionaries."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found
