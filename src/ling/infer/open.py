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
from ..config.engine import DEFAULTS, EngineConfig
from ..errors import UsageError
from ..model.ling import Ling
from ..ops.formats import FORMATS
from .memory import check_mapping, check_packing
from .native_runner import NativeRunner, why_not
from .runner import Runner
from .torch_runner import TorchRunner

log = logging.getLogger("ling")


def open_runner(folder: str | Path, config: EngineConfig = DEFAULTS) -> Runner:
    """Load a model folder for inference, as the `config` says.

    Without a format weights stay what they are: bf16, or FP8 as released. Raises `UsageError` for
    a format that cannot be had, `CheckpointError` for a folder that is not sound.
    """
    dtype, fmt = config.dtype, config.format
    if fmt is not None and fmt not in FORMATS:
        raise UsageError(f"no format `{fmt}`; there are {', '.join(FORMATS)}")
    cfg = read_config(folder)
    stored = read_quantization(folder)
    if stored is not None and stored["quant_method"] == "ling":
        return _open_packed(folder, config)
    if config.max_memory is not None:
        raise UsageError(
            "`max_memory` needs a folder in int4 or int8: make one with `ling convert --to int4`"
        )
    name = str(folder)
    if (dtype == "float32" or (cfg.dtype == "float32" and dtype == "auto")) and fmt is None:
        check_packing(name, cfg, "float32")
        return TorchRunner(load_model(folder, "float32"), config)
    reason = why_not(cfg)
    if reason is not None:
        if fmt not in (None, "bf16"):
            raise UsageError(f"format `{fmt}` needs the native kernels: {reason}")
        _say(reason)
        check_packing(name, cfg, "bf16")
        return TorchRunner(load_model(folder, dtype), config)
    source = SafetensorsFolder(folder)
    check_names(cfg, source)
    if FP8Folder.is_one(source) and fmt in (None, "fp8"):
        stored_fp8 = FP8Folder(cfg, source)
        check_packing(name, cfg, "fp8", stored_fp8.nbytes)
        return NativeRunner(stored_fp8, config)
    check_packing(name, cfg, fmt or "bf16")
    packed = PackedAtLoad(cfg, FORMATS[fmt or "bf16"], lambda name: float_tensor(source, name))
    return NativeRunner(packed, config)


def runner_for(model: Ling, config: EngineConfig = DEFAULTS) -> Runner:
    """A runner over a module's weights: native in the config's format, else the reference."""
    fmt = config.format
    if fmt is None:
        return TorchRunner(model, config)
    reason = why_not(model.config)
    if reason is not None:
        raise UsageError(f"format `{fmt}` needs the native kernels: {reason}")
    weights = PackedAtLoad(model.config, FORMATS[fmt], module_tensors(model.state_dict()))
    return NativeRunner(weights, config)


def _open_packed(folder: str | Path, config: EngineConfig) -> Runner:
    dtype, fmt = config.dtype, config.format
    packed = PackedFolder(folder)
    if fmt is not None and fmt != packed.format.name:
        raise UsageError(
            f"{folder}: is in format `{packed.format.name}`; for `{fmt}` convert the original"
        )
    reason = "`dtype` float32" if dtype == "float32" else why_not(packed.config)
    if reason is None:
        if config.max_memory is None:
            check_mapping(str(folder), packed.mapped_bytes)
        return NativeRunner(packed, config)
    _say(reason)
    check_packing(str(folder), packed.config, "float32" if dtype == "float32" else "bf16")
    values = unpacked_model(packed, torch.float32 if dtype == "float32" else None)
    return TorchRunner(values, config)


def _say(reason: str) -> None:
    log.warning("running on plain PyTorch: %s", reason)
