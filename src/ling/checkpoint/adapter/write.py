"""An adapter to a folder that peft, vLLM and SGLang read as well.

Experts have a tensor each, in the released names (`names.py`). Ranks and scales are written per
kind of matrix, by patterns that fit the modules of vLLM and the stacks of our transformers class.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...errors import UsageError
from ...model.adapter import KINDS, Adapter, LowRank, Target, adapter_targets
from ..checks import check_shape
from ..hf.shard_folder import as_text
from ..raw.shards import ShardFile, Stored
from .names import CONFIG, TENSORS, A, B, key_of, layer_of

# Keys of `rank_pattern` and `alpha_pattern`, matched at the end of a name from a point on.
_MLP = "(gate_proj|up_proj|down_proj)"
_PATTERNS = {
    "attention": r"attention\.(query_key_value|dense)",
    "dense": rf"mlp\.{_MLP}",
    "shared": rf"shared_experts\.{_MLP}",
    "experts": rf"experts(\.\d+)?\.{_MLP}",
}


def write_adapter(
    folder: str | Path,
    adapter: Adapter,
    cfg: ModelConfig,
    *,
    alpha: float,
    rslora: bool = False,
    base: str = "",
    dropout: float = 0.0,
    dtype: torch.dtype | None = None,
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` into `folder`.

    `alpha` is that of most matrices; those whose scale is another get a pattern. `base` names the
    model that it changes. `dropout` is written where no experts are adapted: peft, which cannot
    drop inputs of experts, would refuse to load it, and it means nothing after training. `dtype`
    None keeps that of each tensor. Raises `UsageError` for an adapter without matrices.
    """
    folder, targets = Path(folder), adapter_targets(cfg)
    if not adapter.matrices:
        raise UsageError(f"{folder}: the adapter has no matrices")
    for name, matrix in adapter.matrices.items():
        _check(name, matrix, targets[name])
    folder.mkdir(parents=True, exist_ok=True)
    _write_tensors(folder / TENSORS, adapter, dtype)
    config = adapter_config(adapter, cfg, alpha=alpha, rslora=rslora, base=base, dropout=dropout)
    (folder / CONFIG).write_text(as_text(config), "utf-8")


def _check(name: str, matrix: LowRank, target: Target) -> None:
    stack = (target.experts,) if target.experts else ()
    a, b = (*stack, matrix.rank, target.in_features), (*stack, target.out_features, matrix.rank)
    check_shape("adapter", f"{name}.{A}", matrix.a.shape, a)
    check_shape("adapter", f"{name}.{B}", matrix.b.shape, b)


def _write_tensors(path: Path, adapter: Adapter, dtype: torch.dtype | None) -> None:
    tensors = dict(_tensors(adapter))
    stored = {key: Stored(dtype or t.dtype, tuple(t.shape)) for key, t in tensors.items()}
    file = ShardFile(path, stored)
    try:
        for key, tensor in tensors.items():
            file.put(key, tensor.to("cpu", stored[key].dtype))
    finally:
        file.close()


def _tensors(adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    for name, matrix in adapter.matrices.items():
        for side, value in ((A, matrix.a), (B, matrix.b)):
            if value.dim() == 2:
                yield key_of(name, side), value
            else:
                yield from ((key_of(name, side, e), one) for e, one in enumerate(value))


def adapter_config(
    adapter: Adapter, cfg: ModelConfig, *, alpha: float, rslora: bool, base: str, dropout: float
) -> dict[str, Any]:
    """peft's configuration of an adapter.

    `target_modules` are for classes with a module per expert (vLLM, SGLang, the original's),
    `target_parameters` for stacks (our transformers class).
    """
    targets = adapter_targets(cfg)
    stacks = [name for name in adapter.matrices if targets[name].experts]
    modules = Counter(name.rpartition(".")[2] for name in adapter.matrices)
    ranks = {name: matrix.rank for name, matrix in adapter.matrices.items()}
    # Stacks have the general rank where they can: peft looks for patterns among modules alone, and
    # would warn that one for stacks, which it does use, is ignored.
    rank = Counter(ranks[name] for name in stacks or ranks).most_common(1)[0][0]
    alphas = {name: _alpha(m, rslora) for name, m in adapter.matrices.items()}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "use_rslora": rslora,
        "lora_dropout": 0.0 if stacks else dropout,
        "rank_pattern": _patterns(ranks, rank, targets),
        "alpha_pattern": _patterns(alphas, _plain(alpha), targets),
        "target_modules": list(modules),
        "target_parameters": stacks or None,
        "exclude_modules": _left_out(adapter, cfg, modules),
        "bias": "none",
        "modules_to_save": None,
        "use_dora": False,
        "init_lora_weights": True,
    }


def _alpha(matrix: LowRank, rslora: bool) -> float:
    return _plain(matrix.scale * (math.sqrt(matrix.rank) if rslora else matrix.rank))


def _plain(value: float) -> float:
    """A number as people write it: whole where it is, without the error of a division."""
    value = float(f"{value:.12g}")
    return int(value) if value.is_integer() else value


def _patterns(
    values: Mapping[str, float], default: float, targets: Mapping[str, Target]
) -> dict[str, float]:
    """What differs from `default`, by kind, or by name where matrices of a kind differ."""
    found: dict[str, float] = {}
    for kind in KINDS:
        of_kind = {name: v for name, v in values.items() if targets[name].kind == kind}
        if len(set(of_kind.values())) == 1:
            of_kind = {_PATTERNS[kind]: next(iter(of_kind.values()))}
        else:
            of_kind = {_pattern_of(name, targets[name]): v for name, v in of_kind.items()}
        found |= {pattern: v for pattern, v in of_kind.items() if v != default}
    return found


def _pattern_of(name: str, target: Target) -> str:
    """An expression for one matrix, of a stack for those of its experts too."""
    escaped = re.escape(name)
    return escaped.replace(r"\.experts\.", r"\.experts(\.\d+)?\.") if target.experts else escaped


def _left_out(adapter: Adapter, cfg: ModelConfig, modules: Mapping[str, int]) -> str | None:
    """An expression for what `target_modules` would take besides the adapter's matrices: other
    kinds with the same names, and MTP layers.
    """
    whole = cfg.replace(num_hidden_layers=cfg.num_cache_layers, num_nextn_predict_layers=0)
    layers: dict[str, list[str]] = defaultdict(list)
    for name, target in adapter_targets(whole).items():
        if name not in adapter.matrices and name.rpartition(".")[2] in modules:
            number, rest = layer_of(name) or (0, name)
            layers[_pattern_of(rest, target)].append(str(number))
    by_layers: dict[str, list[str]] = defaultdict(list)
    for rest, numbers in layers.items():
        by_layers["|".join(numbers)].append(rest)
    return (
        "|".join(
            rf"model\.layers\.({numbers})\.({'|'.join(rests)})"
            for numbers, rests in by_layers.items()
        )
        or None
    )
