"""Which reader a path needs, found by looking, and which writer a format has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..config.model import ModelConfig
from ..errors import CheckpointError, UsageError
from ..ops.formats import FORMATS

if TYPE_CHECKING:
    from .hf.layouts import Layout
from ..files.atomic import stopped
from .sink import Sink, SinkOptions
from .source import Source

MakeSink = Callable[[Path, ModelConfig, SinkOptions], Sink]


def layout_for(to: str, options: SinkOptions) -> Layout | None:
    """How a safetensors folder of format `to` stores tensors; None for other formats."""
    from .hf.layouts import FP8Layout, PlainLayout

    if to == "float32":
        return PlainLayout(torch.float32)
    layouts = {"bf16": PlainLayout, "fp8": FP8Layout}
    return layouts[to](options.dtype or torch.bfloat16) if to in layouts else None


def _safetensors(to: str) -> MakeSink:
    def make(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
        from .hf.sink import SafetensorsSink

        layout = layout_for(to, options)
        assert layout is not None
        return SafetensorsSink(folder, cfg, layout, options)

    return make


def _dcp(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .dcp.sink import DCPSink

    return DCPSink(folder, cfg, options)


def _megatron(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .megatron.sink import MegatronSink

    return MegatronSink(folder, cfg, options)


def _gguf(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .gguf.sink import GGUFSink

    return GGUFSink(folder, cfg, options)


def _packed(to: str) -> MakeSink:
    def make(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
        from .packed.sink import PackedSink

        return PackedSink(folder, cfg, options, FORMATS[to])

    return make


SINKS: dict[str, MakeSink] = {
    "bf16": _safetensors("bf16"),
    "float32": _safetensors("float32"),
    "fp8": _safetensors("fp8"),
    **{name: _packed(name) for name, f in FORMATS.items() if f.integer},
    "dcp": _dcp,
    "megatron": _megatron,
    "gguf": _gguf,
}


def sink_for(to: str, folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    """The writer of format `to`; nothing is written before its first `put`."""
    if to not in SINKS:
        raise UsageError(f"no format `{to}`; there are {', '.join(SINKS)}")
    return SINKS[to](folder, cfg, options)


def open_source(path: str | Path) -> Source:
    """The reader for a GGUF file, a Hugging Face folder (bf16, FP8 or ours in integers), a run, our
    DCP or a Megatron checkpoint, by looking.

    Raises `CheckpointError` when it is none of them or damaged. Reads headers only.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder{stopped(path)}")
    if not path.is_dir():
        from .gguf.source import GGUFSource

        return GGUFSource(path)
    from .dcp.source import DCPSource
    from .hf.source import HFSource
    from .megatron.source import MegatronSource, find_iteration
    from .packed.source import PackedSource, is_packed
    from .run_folder import find_checkpoint

    if iteration := find_iteration(path):
        return MegatronSource(iteration)
    if checkpoint := find_checkpoint(path):
        return DCPSource(checkpoint)
    return PackedSource(path) if is_packed(path) else HFSource(path)
