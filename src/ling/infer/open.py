"""From a model folder to the runner that runs it best, and why not a faster one."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ..checkpoint.hf.config import read_config, read_quantization
from ..checkpoint.hf.folder import SafetensorsFolder
from ..checkpoint.hf.names import check_names, float_tensor
from ..checkpoint.load import load_model, unpacked_model
from ..checkpoint.packed.folder import PackedFolder
from ..checkpoint.packed.load import FP8Folder, PackedAtLoad, module_tensors
from ..errors import UsageError
from ..model.ling import Ling
from ..ops.formats import FORMATS
from .memory import check_kv_cache_dtype, check_mapping, check_packing
from .native_runner import NativeRunner, why_not
from .runner import Runner
from .torch_runner import TorchRunner

log = logging.getLogger("ling")


def open_runner(
    folder: str | Path,
    dtype: str = "auto",
    fmt: str | None = None,
    max_memory: int | None = None,
    kv_cache_dtype: str = "bf16",
) -> Runner:
    """Load a model folder for inference.

    `max_memory` (bytes) runs a packed folder that is larger, by keeping its hot experts only.
    `kv_cache_dtype` "int8" keeps keys and values in 8 bits, a scale for each position and head.
    `fmt` packs weights at load ("int4", "int8", ...; by default they stay what they are: bf16, or
    FP8 as released), `dtype` "float32" computes in float32 throughout, in plain PyTorch. Raises
    `UsageError` for a format that cannot be had, `CheckpointError` for a folder that is not sound.
    """
    if fmt is not None and fmt not in FORMATS:
        raise UsageError(f"no format `{fmt}`; there are {', '.join(FORMATS)}")
    if dtype not in ("auto", "bfloat16", "float32"):
        raise UsageError(f"`dtype` is `{dtype}`, expected auto, bfloat16 or float32")
    check_kv_cache_dtype(kv_cache_dtype)
    cfg = read_config(folder)
    stored = read_quantization(folder)
    if stored is not None and stored["quant_method"] == "ling":
        return _open_packed(folder, dtype, fmt, max_memory, kv_cache_dtype)
    if max_memory is not None:
        raise UsageError(
            "`--max-memory` needs a folder in int4 or int8: make one with `ling convert --to int4`"
        )
    name = str(folder)
    if (dtype == "float32" or (cfg.dtype == "float32" and dtype == "auto")) and fmt is None:
        check_packing(name, cfg, "float32")
        return TorchRunner(load_model(folder, "float32"), kv_cache_dtype)
    reason = why_not(cfg)
    if reason is not None:
        if fmt not in (None, "bf16"):
            raise UsageError(f"format `{fmt}` needs the native kernels: {reason}")
        _say(reason)
        check_packing(name, cfg, "bf16")
        return TorchRunner(load_model(folder, dtype), kv_cache_dtype)
    source = SafetensorsFolder(folder)
    check_names(cfg, source)
    if FP8Folder.is_one(source) and fmt in (None, "fp8"):
        stored_fp8 = FP8Folder(cfg, source)
        check_packing(name, cfg, "fp8", stored_fp8.nbytes)
        return NativeRunner(stored_fp8, None, kv_cache_dtype)
    check_packing(name, cfg, fmt or "bf16")
    packed = PackedAtLoad(cfg, FORMATS[fmt or "bf16"], lambda name: float_tensor(source, name))
    return NativeRunner(packed, None, kv_cache_dtype)


def runner_for(model: Ling, fmt: str | None = None, kv_cache_dtype: str = "bf16") -> Runner:
    """A runner over a module's weights: native in format `fmt` when given, else the reference."""
    if fmt is None:
        return TorchRunner(model, kv_cache_dtype)
    reason = why_not(model.config)
    if reason is not None:
        raise UsageError(f"format `{fmt}` needs the native kernels: {reason}")
    weights = PackedAtLoad(model.config, FORMATS[fmt], module_tensors(model.state_dict()))
    return NativeRunner(weights, None, kv_cache_dtype)


def _open_packed(
    folder: str | Path, dtype: str, fmt: str | None, max_memory: int | None, kv_cache_dtype: str
) -> Runner:
    packed = PackedFolder(folder)
    if fmt is not None and fmt != packed.format.name:
        raise UsageError(
            f"{folder}: is in format `{packed.format.name}`; for `{fmt}` convert the original"
        )
    reason = "`dtype` float32" if dtype == "float32" else why_not(packed.config)
    if reason is None:
        if max_memory is None:
            check_mapping(str(folder), packed.mapped_bytes)
        return NativeRunner(packed, max_memory, kv_cache_dtype)
    _say(reason)
    check_packing(str(folder), packed.config, "float32" if dtype == "float32" else "bf16")
    values = unpacked_model(packed, torch.float32 if dtype == "float32" else None)
    return TorchRunner(values, kv_cache_dtype)


def _say(reason: str) -> None:
    log.warning("running on plain PyTorch: %s", reason)
