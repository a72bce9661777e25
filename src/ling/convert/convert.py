"""`ling convert`: our torch DCP checkpoints to Hugging Face folders, and back."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from ..config import ModelConfig
from ..data.tokenizer import Tokenizer
from ..errors import CheckpointError, DCPError, UsageError
from ..files import atomic_folder
from ..model.dcp import read_tensors, tensor_metadata
from ..model.names import in_module, tensor_specs
from ..model.weights import load_model, read_config, save_model

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1}


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str = "bf16",
    tokenizer: str | Path | None = None,
    max_shard_size: str = "5GB",
    overwrite: bool = False,
) -> None:
    """Write `target` from a run folder, a checkpoint `step-N` or a Hugging Face folder.

    `to` is "bf16" or "float32" (a Hugging Face folder) or "dcp". The target appears complete or
    not at all; an existing one is refused unless `overwrite`.
    """
    source, target = Path(source), Path(target)
    if to not in ("bf16", "float32", "dcp"):
        raise UsageError(f"no format `{to}`; there are bf16, float32, dcp")
    shard_bytes = _bytes(max_shard_size)
    if target.exists() and not overwrite:
        raise UsageError(f"{target}: exists; give another name or --overwrite")
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such folder")
    checkpoint = _dcp_folder(source)
    cfg = read_config(checkpoint or source)
    state = _read_dcp(checkpoint, cfg) if checkpoint else load_model(source, "auto").state_dict()
    folder = Path(tokenizer) if tokenizer else _find_tokenizer(source, checkpoint)
    tok = Tokenizer.from_folder(folder) if folder else None
    replaced = _set_aside(target) if target.exists() else None
    try:
        with atomic_folder(target) as tmp:
            if to == "dcp":
                _write_dcp(state, cfg, tmp)
            else:
                dtype = "bfloat16" if to == "bf16" else "float32"
                save_model(state, cfg, tmp, dtype=dtype, max_shard_bytes=shard_bytes)
            if tok is not None:
                tok.save(tmp)
    except BaseException:
        if replaced is not None:
            replaced.rename(target)
        raise
    if replaced is not None:
        shutil.rmtree(replaced)


def _set_aside(target: Path) -> Path:
    aside = target.with_name(target.name + ".old")
    shutil.rmtree(aside, ignore_errors=True)
    return target.rename(aside)


def _bytes(size: str) -> int:
    for unit, factor in _UNITS.items():
        if size.upper().endswith(unit):
            try:
                value = int(float(size[: -len(unit)]) * factor)
            except (ValueError, OverflowError):
                break
            if value > 0:
                return value
            break
    raise UsageError(f"`--max-shard-size` is `{size}`, expected a size such as 5GB")


def _dcp_folder(source: Path) -> Path | None:
    """The checkpoint that `source` is, or the newest finished one of the run that it is."""
    if (source / ".metadata").is_file():
        return source
    found = [p for p in (source / "checkpoints").glob("step-*") if (p / "manifest.json").is_file()]
    return max(found, key=lambda p: int(p.name.removeprefix("step-")), default=None)


def _find_tokenizer(source: Path, checkpoint: Path | None) -> Path | None:
    places = [source, source / "tokenizer"]
    if checkpoint is not None:
        places += [checkpoint, checkpoint.parent.parent / "tokenizer"]
    return next((p for p in places if (p / "tokenizer.json").is_file()), None)


def _read_dcp(folder: Path, cfg: ModelConfig) -> dict[str, Tensor]:
    """The model's tensors by module name; every name and shape is checked first."""
    held = tensor_metadata(folder)
    state: dict[str, Tensor] = {}
    for name, spec in tensor_specs(cfg).items():
        key, expert = in_module(name)
        shape = spec.shape if expert is None else (cfg.num_experts, *spec.shape)
        if f"model.{key}" not in held:
            raise DCPError(f"{folder}: tensor `{key}` is missing")
        meta = held[f"model.{key}"]
        if tuple(meta.size) != shape:
            raise DCPError(
                f"{folder}: tensor `{key}` has shape {list(meta.size)}, expected {list(shape)}"
            )
        if key not in state:
            state[key] = torch.empty(shape, dtype=meta.properties.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_tensors(folder, {f"model.{k}": v for k, v in state.items()})
    return state


def _write_dcp(state: dict[str, Tensor], cfg: ModelConfig, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that no process group is used
        dcp.save({f"model.{k}": v for k, v in state.items()}, checkpoint_id=folder, no_dist=True)
    (folder / "config.json").write_text(json.dumps(cfg.to_dict(), indent=2) + "\n", "utf-8")
