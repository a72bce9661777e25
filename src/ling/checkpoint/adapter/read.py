"""An adapter from a folder, in our layout or peft's.

Legend: E experts · r rank.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...errors import CheckpointError
from ...files.guarded import inside
from ...model.adapter import Adapter, LowRank, Target, adapter_targets
from ...text import shown
from ..checks import check_dtype, check_shape
from ..raw.safetensors import SafetensorsFile
from .config import AdapterConfig, read_adapter_config
from .names import TENSORS, A, B, Key, key_of, layer_of, module_of, parse

log = logging.getLogger("ling")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_OTHERS = {
    "lora_magnitude_vector": "DoRA",
    "lora_embedding": "embeddings",
    "modules_to_save": "whole modules",
    ".bias": "biases",
}


def read_adapter(folder: str | Path, cfg: ModelConfig) -> Adapter:
    """The adapter in `folder` for a model of `cfg`, its tensors as stored (float16 as float32).

    Read are our layout, one tensor for each expert, and peft's over our transformers class, whose
    stacks are flat. Adapters of MTP layers are left out with a log line: they change drafts only.
    Raises `CheckpointError`, which names the first tensor that the model has no place for, that is
    missing or of another shape, and for what is no LoRA of matrices (DoRA, biases, embeddings,
    whole modules, pickles, GGUF).
    """
    folder = Path(folder)
    config = read_adapter_config(folder)
    file = _open(folder)
    keys = _with_names(file, config, _parsed(file, cfg))
    return Adapter(_matrices(file, config, keys, cfg))


def _open(folder: Path) -> SafetensorsFile:
    try:
        path = inside(folder, TENSORS)
    except OSError as err:
        raise CheckpointError(f"{folder / TENSORS}: {err.strerror}") from None
    if not path.is_file():
        pickles = any(found.name != TENSORS for found in folder.glob("adapter_model.*"))
        why = "as a pickle is not read; save it as safetensors" if pickles else "has no tensors"
        raise CheckpointError(f"{folder}: the adapter {why} ({TENSORS})")
    return SafetensorsFile(path)


def _parsed(file: SafetensorsFile, cfg: ModelConfig) -> dict[Key, str]:
    """Names on disk by what they are, without those of MTP layers."""
    found: dict[Key, str] = {}
    drafts = 0
    for name, entry in file.entries.items():
        if (key := parse(name)) is None:
            raise _unknown(file, name)
        check_dtype(file.path, name, entry.dtype, _DTYPES)
        if _is_mtp(key.name, cfg):
            drafts += 1
        elif key in found:
            raise CheckpointError(f"{file.path}: `{found[key]}` and `{name}` are the same tensor")
        else:
            found[key] = name
    if drafts:
        log.warning("%s: %d tensors of MTP layers left out", file.path, drafts)
    if not found:
        raise CheckpointError(f"{file.path}: no tensor of an adapter")
    return found


def _unknown(file: SafetensorsFile, name: str) -> CheckpointError:
    what = next((what for part, what in _OTHERS.items() if part in name), None)
    reason = f"an adapter with {what} is not read" if what else "is no A or B of a LoRA adapter"
    return CheckpointError(f"{file.path}: tensor {shown(name)}: {reason}")


def _is_mtp(name: str, cfg: ModelConfig) -> bool:
    at = layer_of(name)
    return at is not None and cfg.num_hidden_layers <= at[0] < cfg.num_cache_layers


def _with_names(
    file: SafetensorsFile, config: AdapterConfig, keys: dict[Key, str]
) -> dict[Key, str]:
    """Nested stacks under their names, which only the order of wrapping tells apart."""
    depths: dict[str, set[int]] = defaultdict(set)
    for key in keys:
        if key.depth is not None:
            depths[key.name].add(key.depth)
    names_of = {experts: config.targeted(experts)[::-1] for experts in depths}
    for experts, found in depths.items():
        if found != set(range(len(names_of[experts]))):
            first = next(n for key, n in keys.items() if key.name == experts)
            raise CheckpointError(
                f"{file.path}: tensor `{first}`: {len(found)} stacks of experts are nested here, "
                f"`target_parameters` names {len(names_of[experts])}"
            )
    return {_named(key, names_of): name for key, name in keys.items()}


def _named(key: Key, names_of: dict[str, list[str]]) -> Key:
    if key.depth is None:
        return key
    return key._replace(name=names_of[key.name][key.depth], depth=0)


def _matrices(
    file: SafetensorsFile, config: AdapterConfig, keys: dict[Key, str], cfg: ModelConfig
) -> dict[str, LowRank]:
    targets = adapter_targets(cfg)
    for key, name in keys.items():
        _check_target(file, key, name, targets, cfg)
    reader, named = _Reader(file, config, keys), {key.name for key in keys}
    return {name: reader.matrix(name, target) for name, target in targets.items() if name in named}


def _check_target(
    file: SafetensorsFile, key: Key, name: str, targets: dict[str, Target], cfg: ModelConfig
) -> None:
    target = targets.get(key.name)
    if target is None or bool(target.experts) != _of_experts(key):
        why = "names no matrix of this model that an adapter can change"
    elif key.expert is not None and key.expert >= target.experts:
        why = f"the model has {target.experts} experts"
    else:
        return
    raise CheckpointError(
        f"{file.path}: tensor {shown(name)}: {why} ({cfg.num_hidden_layers} layers, hidden size "
        f"{cfg.hidden_size}); is the adapter for another one?"
    )


def _of_experts(key: Key) -> bool:
    return key.expert is not None or key.depth is not None


class _Reader:
    """Reads matrices; every shape is compared before memory is allocated for it."""

    def __init__(self, file: SafetensorsFile, config: AdapterConfig, keys: dict[Key, str]) -> None:
        self._file, self._config, self._keys = file, config, keys

    def matrix(self, name: str, target: Target) -> LowRank:
        """A and B of the matrix `name`, however they are stored."""
        if Key(name, A, depth=0) in self._keys or Key(name, B, depth=0) in self._keys:
            return self._nested(name, target)
        return self._each(name, target) if target.experts else self._single(name, target)

    def _single(self, name: str, target: Target) -> LowRank:
        rank, scale = self._config.of(name)
        a = self._read(Key(name, A), (rank, target.in_features))
        return LowRank(a, self._read(Key(name, B), (target.out_features, rank)), scale)

    def _each(self, name: str, target: Target) -> LowRank:
        rank, scale = self._config.of(module_of(name, 0))
        for e in range(target.experts):
            if self._config.of(module_of(name, e)) != (rank, scale):
                raise CheckpointError(
                    f"{self._file.path}: `{module_of(name, e)}` has another rank or scale than "
                    "expert 0; experts of a layer share theirs"
                )
        shapes = {A: (rank, target.in_features), B: (target.out_features, rank)}
        a, b = (
            torch.stack([self._read(Key(name, side, e), shape) for e in range(target.experts)])
            for side, shape in shapes.items()
        )
        return LowRank(a, b, scale)

    def _nested(self, name: str, target: Target) -> LowRank:
        """peft's stacks: rows of A are (expert, rank), columns of B (rank, expert)."""
        rank, scale = self._config.of(name)
        ranks = target.experts * rank
        a = self._read(Key(name, A, depth=0), (ranks, target.in_features))
        b = self._read(Key(name, B, depth=0), (target.out_features, ranks))
        b_OrE = b.view(target.out_features, rank, target.experts)
        return LowRank(a.view(target.experts, rank, -1), b_OrE.permute(2, 0, 1).contiguous(), scale)

    def _read(self, key: Key, shape: tuple[int, int]) -> Tensor:
        path, name = self._file.path, self._keys.get(key)
        if name is None:
            missing = key_of(key.name, key.side, key.expert)
            raise CheckpointError(f"{path}: tensor `{missing}` is missing")
        check_shape(path, name, self._file.entries[name].shape, shape)
        value = self._file.read(name)
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: tensor `{name}` holds NaN or infinity")
        return value.float() if value.dtype == torch.float16 else value
