"""`adapter_config.json` as it is read: rank and scale of each matrix, and what is refused."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...config.hf_json import read_raw
from ...errors import CheckpointError, ConfigError
from ...files.guarded import inside
from ...model.adapter import scale_of
from ...text import as_json, shown
from .names import CONFIG, MATRICES

T = TypeVar("T")
MAX_RANK = 1 << 16
MAX_ALPHA = 1e6
_MAX_PATTERNS = 4096
# Patterns come with the file, and an expression can be made to take forever: only names with few
# alternatives and repetitions are read, and no group is repeated.
_PLAIN_PATTERN = re.compile(r"(?:\(\\\.\\d\+\)\?|\\d\+|\\\.|\.\*|\(\?:|[\w.^$()|-])+", re.ASCII)
_MAX_REPETITIONS, _MAX_CHOICES = 2, 1000

# What an adapter can be besides two matrices, by the key that says so.
_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "biases",
    "modules_to_save": "whole modules (`modules_to_save`)",
    "trainable_token_indices": "token embeddings (`trainable_token_indices`)",
    "fan_in_fan_out": "transposed matrices (`fan_in_fan_out`)",
    "layer_replication": "layers that are there twice (`layer_replication`)",
    "alora_invocation_tokens": "activated LoRA (`alora_invocation_tokens`)",
}
# How the matrices were initialised: over when they are stored.
_PAST = {"loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_config"}
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter's configuration says of its tensors."""

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_parameters: tuple[str, ...]
    base: str | None
    """The model that it was trained on, as its trainer named it."""

    def of(self, module: str) -> tuple[int, float]:
        """Rank of the matrix of `module`, and what its product is multiplied by."""
        rank = _first_match(self.rank_pattern, module, self.rank)
        alpha = _first_match(self.alpha_pattern, module, self.alpha)
        return rank, scale_of(rank, alpha, rslora=self.rslora)

    def targeted(self, experts: str) -> list[str]:
        """Which stacks of `experts` (`model.layers.3.mlp.experts`) peft has wrapped, in order."""
        names = [f"{experts}.{matrix}" for matrix in MATRICES]
        return [n for n in names if any(f".{n}".endswith(f".{t}") for t in self.target_parameters)]


def _first_match(pattern: Mapping[str, T], name: str, default: T) -> T:
    """peft's rule: the end of a name from a point on, as a regular expression."""
    return next((v for key, v in pattern.items() if _compiled(key).match(name)), default)


@functools.lru_cache(maxsize=2 * _MAX_PATTERNS)
def _compiled(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


def read_adapter_config(folder: str | Path) -> AdapterConfig:
    """The configuration of an adapter; `CheckpointError` for what is not LoRA on matrices alone."""
    folder = Path(folder)
    _check_folder(folder)
    try:
        raw = read_raw(inside(folder, CONFIG))
        _refuse(raw)
        return AdapterConfig(
            rank=_rank("r", raw.get("r")),
            alpha=_number("lora_alpha", raw.get("lora_alpha")),
            rslora=_switch("use_rslora", raw.get("use_rslora")),
            rank_pattern=_pattern(raw, "rank_pattern", _rank),
            alpha_pattern=_pattern(raw, "alpha_pattern", _number),
            target_parameters=_texts(raw, "target_parameters"),
            base=raw["base_model_name_or_path"]
            if isinstance(raw.get("base_model_name_or_path"), str)
            else None,
        )
    except OSError as err:
        raise CheckpointError(f"{folder / CONFIG}: {err.strerror}") from None
    except ConfigError as err:
        raise CheckpointError(f"{folder / CONFIG}: {err}") from None


def _check_folder(folder: Path) -> None:
    if folder.suffix == ".gguf" or (folder.is_dir() and _only_gguf(folder)):
        raise CheckpointError(
            f"{folder}: adapters as GGUF are not read; give the folder with {CONFIG} and "
            "safetensors that it was made of"
        )
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such adapter folder")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: not an adapter, it has no {CONFIG}")


def _only_gguf(folder: Path) -> bool:
    return not (folder / CONFIG).is_file() and next(folder.glob("*.gguf"), None) is not None


def _refuse(raw: Mapping[str, Any]) -> None:
    if raw.get("peft_type") != "LORA":
        raise ConfigError(f"`peft_type` is {as_json(raw.get('peft_type'))}, expected LORA")
    for key, what in _REFUSED.items():
        if raw.get(key):
            raise ConfigError(f"an adapter with {what} is not read")
    if raw.get("bias", "none") != "none":
        raise ConfigError("an adapter with biases (`bias`) is not read")
    for key, value in raw.items():
        method = (key.startswith("use_") and key != "use_rslora") or key.endswith("_config")
        if method and value and key not in _PAST:
            raise ConfigError(f"{shown(key)} is set, and an adapter with it is not read")
    start = raw.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise ConfigError(
            f"`init_lora_weights` is {shown(start)}, which changes the base's own weights; convert "
            "the adapter with peft (`path_initial_model_for_weight_conversion`)"
        )


def _pattern(raw: Mapping[str, Any], key: str, read: Any) -> dict[str, Any]:
    pattern = raw.get(key) or {}
    if not isinstance(pattern, dict) or len(pattern) > _MAX_PATTERNS:
        raise ConfigError(f"`{key}` is not an object of at most {_MAX_PATTERNS} names")
    for name in pattern:
        if not _is_plain(name):
            raise ConfigError(f"`{key}` has {shown(name)}; write the modules' names instead")
        try:
            _compiled(name)
        except (re.error, RecursionError):
            raise ConfigError(f"`{key}` has {shown(name)}, no regular expression") from None
    return {name: read(key, value) for name, value in pattern.items()}


def _is_plain(pattern: str) -> bool:
    """Whether matching ends soon: backtracking tries each combination of alternatives."""
    repetitions = sum(pattern.count(c) for c in "*+")
    return (
        _PLAIN_PATTERN.fullmatch(pattern) is not None
        and repetitions <= _MAX_REPETITIONS
        and _choices(pattern) <= _MAX_CHOICES
    )


def _choices(pattern: str) -> int:
    """How many combinations the alternatives of all groups have."""
    done, open_groups = 1 << pattern.count(")?"), [1]
    for c in pattern:
        if c == "(":
            open_groups.append(1)
        elif c == "|":
            open_groups[-1] += 1
        elif c == ")" and len(open_groups) > 1:
            done *= open_groups.pop()
    return done * math.prod(open_groups)


def _rank(key: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise ConfigError(f"`{key}` is {as_json(value)}, expected a rank from 1 to {MAX_RANK}")
    return value


def _number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not -MAX_ALPHA <= value <= MAX_ALPHA:
        raise ConfigError(f"`{key}` is {as_json(value)}, expected a number up to {MAX_ALPHA:g}")
    return float(value)


def _switch(key: str, value: Any) -> bool:
    if value not in (None, True, False):
        raise ConfigError(f"`{key}` is {as_json(value)}, expected true or false")
    return bool(value)


def _texts(raw: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = raw.get(key) or ()
    if not isinstance(value, list | tuple) or not all(isinstance(x, str) for x in value):
        raise ConfigError(f"`{key}` is {as_json(value)}, expected a list of names")
    return tuple(value)
