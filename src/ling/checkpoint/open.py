"""Which reader a path needs, found by looking, and which writer a format has.

The two tables of the room. Importing it takes no torch, so that `--help` can list the formats.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.model import ModelConfig
from ..errors import CheckpointError, UsageError
from ..files.atomic import stopped
from ..ops.formats import Format, integer_formats

if TYPE_CHECKING:
    from .hf.layouts import Layout
    from .sink import Sink, SinkOptions
    from .source import Source

    MakeSink = Callable[[Path, ModelConfig, SinkOptions], Sink]


# ---- writers -----------------------------------------------------------------------------------


def writers() -> dict[str, MakeSink]:
    """The writer of each format of `ling convert --to`, in the order in which they are listed."""
    return {
        **{to: partial(_safetensors, to) for to in ("bf16", "float32", "fp8")},
        **{f.name: partial(_packed, f) for f in integer_formats()},
        "dcp": _dcp,
        "megatron": _megatron,
        "gguf": _gguf,
    }


def layout_for(to: str, options: SinkOptions) -> Layout | None:
    """How a safetensors folder of format `to` stores tensors; None for other formats."""
    import torch

    from .hf.layouts import FP8Layout, PlainLayout

    dtype = options.dtype or torch.bfloat16
    layouts = {
        "bf16": lambda: PlainLayout(dtype),
        "float32": lambda: PlainLayout(torch.float32),
        "fp8": lambda: FP8Layout(dtype),
    }
    return layouts[to]() if to in layouts else None


def _safetensors(to: str, folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .hf.sink import SafetensorsSink

    layout = layout_for(to, options)
    assert layout is not None
    return SafetensorsSink(folder, cfg, layout, options)


def _packed(fmt: Format, folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .packed.sink import PackedSink

    return PackedSink(folder, cfg, options, fmt)


def _dcp(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .dcp.sink import DCPSink

    return DCPSink(folder, cfg, options)


def _megatron(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .megatron.sink import MegatronSink

    return MegatronSink(folder, cfg, options)


def _gguf(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .gguf.sink import GGUFSink

    return GGUFSink(folder, cfg, options)


def sink_for(to: str, folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    """The writer of format `to`; nothing is written before its first `put`."""
    check_writer(to)
    return writers()[to](folder, cfg, options)


def check_writer(to: str) -> None:
    """`UsageError` for a format that nothing writes."""
    if to not in writers():
        raise UsageError(f"no format `{to}`; there are {', '.join(writers())}")


# ---- readers -----------------------------------------------------------------------------------


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
