"""What every writer offers, and the table of formats that `ling convert --to` knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError, UsageError
from ..model.shards import Extent
from ..ops.formats import FORMATS

if TYPE_CHECKING:
    from .layouts import Layout
    from .source import Rows


class Sink(Protocol):
    """Writes one format into a folder, which exists when the first `put` comes.

    Every name of `names` is put once, by several threads, in about that order.
    """

    names: list[str]
    """Names of `tensor_specs(config)` that this writer wants, in the order it likes best."""
    files: dict[str, int]
    """File name to bytes, known before anything is written."""

    def put(self, name: str, tensor: Tensor) -> None: ...

    def finish(self) -> None:
        """All tensors are there: close the files, write what describes them."""
        ...


@runtime_checkable
class ExtentSink(Protocol):
    """A writer that can take a tensor from where it lies."""

    def put_extent(self, name: str, extent: Extent) -> bool:
        """Like `put`; False when it has to be put after all."""
        ...


@runtime_checkable
class RowSink(Protocol):
    """A writer that can take some tensors a few rows at a time."""

    def takes_rows(self, name: str) -> bool:
        """Whether `put_rows` may stand for `put`."""
        ...

    def put_rows(self, name: str, rows: Rows) -> None:
        """Like `put`."""
        ...


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """What a writer may want to know besides the configuration."""

    dtype: torch.dtype | None = None
    """Of values that the format keeps in floating point; None: the format's own choice."""
    max_shard_bytes: int = 5_000_000_000
    tokenizer: Path | None = None
    gguf_type: str = "bf16"
    """Type of most matrices of a GGUF file: bf16, f32, f16, q8_0, q4_0, q4_1, q5_0, q5_1."""
    importance: Mapping[str, Tensor] | None = None
    """Weight of the error of each input column, by packed matrix (convert/calibrate.py)."""
    rank: int = 0
    """Of `world_size` processes that share the work, for formats in shards."""
    world_size: int = 1


def check_finite(name: str, tensor: Tensor, what: str) -> None:
    """`CheckpointError` when a format that turns NaN and infinity into something else gets one."""
    if not _is_finite(tensor):
        raise CheckpointError(f"tensor `{name}` holds NaN or infinity, {what} cannot")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are; the extremes tell, and cost no copy."""
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another dtype; `CheckpointError` for values that float16 cannot hold."""
    value = tensor.to(dtype)
    if dtype == torch.float16 and tensor.dtype != dtype and not _is_finite(value):
        raise CheckpointError(f"tensor `{name}` holds values beyond 65504, the end of float16")
    return value


MakeSink = Callable[[Path, ModelConfig, SinkOptions], Sink]


def layout_for(to: str, options: SinkOptions) -> Layout | None:
    """How a safetensors folder of format `to` stores tensors; None for other formats."""
    from .layouts import FP8Layout, PlainLayout

    if to == "float32":
        return PlainLayout(torch.float32)
    layouts = {"bf16": PlainLayout, "fp8": FP8Layout}
    return layouts[to](options.dtype or torch.bfloat16) if to in layouts else None


def _safetensors(to: str) -> MakeSink:
    def make(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
        from .hf import SafetensorsSink

        layout = layout_for(to, options)
        assert layout is not None
        return SafetensorsSink(folder, cfg, layout, options)

    return make


def _dcp(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .dcp import DCPSink

    return DCPSink(folder, cfg, options)


def _megatron(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .megatron_sink import MegatronSink

    return MegatronSink(folder, cfg, options)


def _gguf(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .gguf import GGUFSink

    return GGUFSink(folder, cfg, options)


def _packed(to: str) -> MakeSink:
    def make(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
        from .packed import PackedSink

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
