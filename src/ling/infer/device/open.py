"""Which device a checkpoint runs on, and its runner there."""

from __future__ import annotations

import logging

import torch

from ...checkpoint.packed.source import PackedSource
from ...checkpoint.source import Source
from ...config.engine import EngineConfig
from ...errors import UsageError
from .memory import why_no_room
from .runner import DeviceRunner
from .weights import load_on_device

log = logging.getLogger("ling")


def open_on_gpu(name: str, source: Source, config: EngineConfig) -> DeviceRunner | None:
    """The runner of a GPU for a checkpoint that is open; None where the CPU is to run it.

    Raises `UsageError` where `device` is `cuda` and there is no GPU, or none that can run this.
    """
    if config.device == "cpu":
        return None
    reason = why_no_gpu() or _why_not(name, source, config)
    if reason is None:
        device = torch.device("cuda", torch.cuda.current_device())
        reason = why_no_room(name, source, device)
        if reason is None:
            return DeviceRunner(load_on_device(source, config.dtype, device), config)
    if config.device == "cuda":
        raise UsageError(reason)
    log.info("runs on the CPU: %s", reason)
    return None


def check_device(config: EngineConfig) -> None:
    """Raise `UsageError` where a GPU is asked for and there is none: before anything is read."""
    if config.device == "cuda" and (reason := why_no_gpu()) is not None:
        raise UsageError(reason)


def why_no_gpu() -> str | None:
    """None if PyTorch sees a GPU, else what to do about it."""
    if torch.cuda.is_available():
        return None
    built = "sees no GPU" if torch.version.cuda else "is built without CUDA"
    return (
        f'`device="cuda"` needs a GPU, and PyTorch {torch.__version__} {built} '
        '(`ling doctor` shows what is there); `device="cpu"` runs everything'
    )


def _why_not(name: str, source: Source, config: EngineConfig) -> str | None:
    """What of a checkpoint and its options only the CPU has, and what to use instead."""
    if isinstance(source, PackedSource):
        return (
            f"{name}: is in format `{source.folder.format.name}`, which runs on the CPU only; on a "
            "GPU use the bf16 or FP8 folder (`ling convert --to fp8` makes one of the original)"
        )
    if config.lora:
        return (
            "`lora` is for the CPU: on a GPU put the adapter into the weights "
            "(`ling convert --merge`), or serve it with vLLM (`ling deploy`)"
        )
    if config.format not in (None, "bf16"):
        return (
            f"`format` is `{config.format}`, and packing at load is for the CPU; on a GPU use a "
            "bf16 folder, or an FP8 one (`ling convert --to fp8`)"
        )
    if config.max_memory is not None:
        return "`max_memory` is for folders in int4 or int8, which run on the CPU only"
    if config.kv_cache_dtype != "bf16":
        return (
            f'`kv_cache_dtype="{config.kv_cache_dtype}"` is for the CPU; on a GPU the KV cache is '
            'in the type that is computed in: leave it at `kv_cache_dtype="bf16"`'
        )
    return None
