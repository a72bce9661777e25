"""From a checkpoint of any kind to the runner that runs it best, and why not a faster one."""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from pathlib import Path

from ..checkpoint.load import load_module, packed_weights, rounded_module
from ..checkpoint.open import open_source
from ..checkpoint.packed.load import PackedAtLoad
from ..checkpoint.packed.source import PackedSource
from ..checkpoint.source import Source
from ..errors import UsageError
from ..model.ling import Ling
from ..model.names import module_tensor
from ..ops.formats import BF16, FORMATS, Format
from .memory import check_kv_cache_dtype, check_mapping, check_packing
from .native_runner import NativeRunner, why_not
from .runner import Runner
from .torch_runner import TorchRunner

log = logging.getLogger("ling")


def open_runner(
    path: str | Path,
    dtype: str = "auto",
    fmt: str | None = None,
    max_memory: int | None = None,
    kv_cache_dtype: str = "bf16",
) -> Runner:
    """Load any checkpoint that `ling convert` reads for inference.

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
    wanted = None if fmt is None else FORMATS[fmt]
    with contextlib.closing(open_source(path)) as source:
        if isinstance(source, PackedSource):
            return _open_packed(str(path), source, dtype, wanted, max_memory, kv_cache_dtype)
        if max_memory is not None:
            raise UsageError(
                "`--max-memory` needs a folder in int4 or int8: make one with "
                "`ling convert --to int4`"
            )
        return _open_floats(str(path), source, dtype, wanted, kv_cache_dtype)


def _open_floats(
    name: str, source: Source, dtype: str, fmt: Format | None, kv_cache_dtype: str
) -> Runner:
    """Weights in floating point or blocks: packed as they are read, or in plain PyTorch."""
    cfg = source.config
    if fmt is None and (dtype == "float32" or (cfg.dtype == "float32" and dtype == "auto")):
        check_packing(name, cfg, "float32")
        return TorchRunner(load_module(source, "float32"), kv_cache_dtype)
    reason = why_not(cfg, fmt or BF16)
    if reason is None:
        weights = packed_weights(source, fmt)
        check_packing(name, cfg, weights.format.name, weights.nbytes)
        return NativeRunner(weights, None, kv_cache_dtype)
    if fmt not in (None, BF16) and fmt.kernel is not None:
        raise UsageError(f"format `{fmt.name}` needs the native kernels: {reason}")
    _say(reason)
    check_packing(name, cfg, "bf16")
    if fmt in (None, BF16):
        return TorchRunner(load_module(source, dtype), kv_cache_dtype)
    return TorchRunner(rounded_module(source, fmt, dtype), kv_cache_dtype)


def _open_packed(
    name: str,
    source: PackedSource,
    dtype: str,
    fmt: Format | None,
    max_memory: int | None,
    kv_cache_dtype: str,
) -> Runner:
    """A folder in an integer format: mapped, or its values in plain PyTorch."""
    packed = source.folder
    if fmt not in (None, packed.format):
        raise UsageError(
            f"{name}: is in format `{packed.format.name}`; for `{fmt.name}` convert the original"
        )
    wide = dtype == "float32"
    reason = "`dtype` float32" if wide else why_not(packed.config, packed.format)
    if reason is None:
        if max_memory is None:
            check_mapping(name, packed.mapped_bytes)
        return NativeRunner(packed, max_memory, kv_cache_dtype)
    _say(reason)
    check_packing(name, packed.config, "float32" if wide else "bf16")
    return TorchRunner(load_module(source, "float32" if wide else "bfloat16"), kv_cache_dtype)


def runner_for(model: Ling, fmt: str | None = None, kv_cache_dtype: str = "bf16") -> Runner:
    """A runner over a module's weights: native in format `fmt` when given, else the reference."""
    if fmt is None:
        return TorchRunner(model, kv_cache_dtype)
    reason = why_not(model.config, FORMATS[fmt])
    if reason is not None:
        raise UsageError(f"format `{fmt}` needs the native kernels: {reason}")
    state = model.state_dict()
    weights = PackedAtLoad(model.config, FORMATS[fmt], partial(module_tensor, state))
    return NativeRunner(weights, None, kv_cache_dtype)


def _say(reason: str) -> None:
    log.warning("running on plain PyTorch: %s", reason)
