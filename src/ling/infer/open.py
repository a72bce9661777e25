"""From any checkpoint to the runner that runs it best, and why not a faster one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoint.adapter.read import read_adapter
from ..checkpoint.fingerprint import weights_id
from ..checkpoint.load import load_module, packed_weights, rounded_module
from ..checkpoint.open import open_source
from ..checkpoint.packed.load import PackedAtLoad
from ..checkpoint.packed.source import PackedSource
from ..checkpoint.source import Source
from ..config.engine import DEFAULTS, EngineConfig
from ..errors import UsageError
from ..model.ling import Ling
from ..model.names import module_tensor
from ..ops.formats import BF16, FORMATS
from .adapters import table_of
from .device.open import open_on_gpu
from .memory import check_mapping, check_packing
from .native_runner import NativeRunner, why_not
from .runner import Runner
from .torch_runner import TorchRunner

log = logging.getLogger("ling")


def open_runner(path: str | Path, config: EngineConfig = DEFAULTS) -> Runner:
    """Load any checkpoint that `ling convert` reads for inference, as the `config` says.

    Without a format weights stay what they are: bf16, or FP8 as released. Raises `UsageError` for
    a format that cannot be had, `CheckpointError` for a checkpoint or adapter that is not sound.
    """
    if config.format is not None and config.format not in FORMATS:
        raise UsageError(f"no format `{config.format}`; there are {', '.join(FORMATS)}")
    with contextlib.closing(open_source(path)) as source:
        if config.hf_overrides:
            _override(source, config.hf_overrides)
        # Before the weights: what is wrong with one is said at once.
        adapters = {
            name: read_adapter(folder, source.config)
            for name, folder in config.adapter_folders.items()
        }
        table_of(adapters, source.config)
        on_gpu = open_on_gpu(str(path), source, config)
        runner = _open_on_cpu(str(path), source, config) if on_gpu is None else on_gpu
    if adapters:
        runner.use_adapters(adapters)
    if config.cache_dir is not None:
        runner.weights_id = weights_id(path)
    return runner


def _override(source: Source, fields: Mapping[str, Any]) -> None:
    """Let an open checkpoint have other fields of config.json."""
    source.config = source.config.replace(**fields)
    if isinstance(source, PackedSource):
        source.folder.config = source.config


def _open_on_cpu(name: str, source: Source, config: EngineConfig) -> Runner:
    if isinstance(source, PackedSource):
        return _open_packed(name, source, config)
    if config.max_memory is not None:
        raise UsageError(
            "`max_memory` needs a folder in int4 or int8: make one with `ling convert --to int4`"
        )
    return _open_floats(name, source, config)


def _open_floats(name: str, source: Source, config: EngineConfig) -> Runner:
    """Weights in floating point or blocks: packed as they are read, or in plain PyTorch."""
    cfg, dtype = source.config, config.dtype
    fmt = None if config.format is None else FORMATS[config.format]
    if fmt is None and (dtype == "float32" or (cfg.dtype == "float32" and dtype == "auto")):
        check_packing(name, cfg, "float32")
        return TorchRunner(load_module(source, "float32"), config)
    reason = why_not(cfg, fmt or BF16)
    if reason is None:
        weights = packed_weights(source, fmt)
        check_packing(name, cfg, weights.format.name, weights.nbytes)
        return NativeRunner(weights, config)
    if fmt not in (None, BF16) and fmt.kernel is not None:
        raise UsageError(f"format `{fmt.name}` needs the native kernels: {reason}")
    _say(reason)
    check_packing(name, cfg, "bf16")
    if fmt in (None, BF16):
        return TorchRunner(load_module(source, dtype), config)
    return TorchRunner(rounded_module(source, fmt, dtype), config)


def _open_packed(name: str, source: PackedSource, config: EngineConfig) -> Runner:
    """A folder in an integer format: mapped, or its values in plain PyTorch."""
    packed, fmt = source.folder, config.format
    if fmt not in (None, packed.format.name):
        raise UsageError(
            f"{name}: is in format `{packed.format.name}`; for `{fmt}` convert the original"
        )
    wide = config.dtype == "float32"
    reason = "`dtype` float32" if wide else why_not(packed.config, packed.format)
    if reason is None:
        if config.max_memory is None:
            check_mapping(name, packed.mapped_bytes)
        return NativeRunner(packed, config)
    _say(reason)
    check_packing(name, packed.config, "float32" if wide else "bf16")
    return TorchRunner(load_module(source, "float32" if wide else "bfloat16"), config)


def runner_for(model: Ling, config: EngineConfig = DEFAULTS) -> Runner:
    """A runner over a module's weights: native in the config's format, else the reference."""
    fmt = config.format
    if fmt is None:
        return TorchRunner(model, config)
    reason = why_not(model.config, FORMATS[fmt])
    if reason is not None:
        raise UsageError(f"format `{fmt}` needs the native kernels: {reason}")
    state = model.state_dict()
    weights = PackedAtLoad(model.config, FORMATS[fmt], partial(module_tensor, state))
    return NativeRunner(weights, config)


def _say(reason: str) -> None:
    log.warning("running on plain PyTorch: %s", reason)
