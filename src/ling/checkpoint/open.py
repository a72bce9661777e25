"""Which reader a path needs, found by looking, and which writer a format has.

The two tables of the room. Importing it takes no torch, so that `--help` can list the formats.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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


class Reader(NamedTuple):
    """One kind of checkpoint: `find` gives the file or folder that `open` takes, None for other
    kinds.
    """

    find: Callable[[Path], Path | None]
    open: Callable[[Path], Source]
    tokenizer_folder: Callable[[Path], Path | None]


def _readers() -> tuple[Reader, ...]:
    """In the order of looking; the last takes any folder, to say what is wrong with it."""
    from .dcp import source as dcp
    from .gguf import source as gguf
    from .hf import source as hf
    from .megatron import source as megatron
    from .packed import source as packed
    from .run_folder import find_checkpoint
    from .source import tokenizer_in

    return (
        Reader(gguf.find_file, gguf.GGUFSource, gguf.tokenizer_folder),
        Reader(megatron.find_iteration, megatron.MegatronSource, megatron.tokenizer_folder),
        Reader(find_checkpoint, dcp.DCPSource, dcp.tokenizer_folder),
        Reader(packed.find_folder, packed.PackedSource, tokenizer_in),
        Reader(Path, hf.HFSource, tokenizer_in),
    )


_OF_A_FOLDER = (".safetensors", ".json", ".bin", ".pt", ".pth", ".distcp")


def _look(path: str | Path) -> tuple[Reader, Path]:
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder{stopped(path)}")
    if path.is_file() and path.suffix in _OF_A_FOLDER:
        raise CheckpointError(f"{path}: one file of a model; give the folder that it is in")
    return next((r, found) for r in _readers() if (found := r.find(path)) is not None)


def open_source(path: str | Path) -> Source:
    """The reader for a GGUF file, a Hugging Face folder (bf16, FP8 or ours in integers), a run, our
    DCP or a Megatron checkpoint, by looking.

    Raises `CheckpointError` when it is none of them or damaged. Reads headers only.
    """
    reader, found = _look(path)
    return reader.open(found)


def tokenizer_folder(path: str | Path) -> Path | None:
    """The folder with the tokenizer of a checkpoint that `open_source` reads; None without one.

    That of a GGUF file is written into a temporary folder, which is removed when Python exits.
    """
    reader, found = _look(path)
    return reader.tokenizer_folder(found)


def config_at(path: str | Path) -> ModelConfig:
    """The configuration of any checkpoint as its weights have it, or of a folder that holds a
    `config.json` and no weights at all. Errors as `open_source`.
    """
    from .hf.config import read_config

    if not holds_weights(path):
        return read_config(path)
    with contextlib.closing(open_source(path)) as source:
        return source.config


def holds_weights(path: str | Path) -> bool:
    """Whether there is more at `path` than a model folder's configuration and tokenizer."""
    from .hf.folder import has_weights
    from .hf.source import HFSource

    reader, found = _look(path)
    return reader.open is not HFSource or has_weights(found)
