"""What every writer of a checkpoint offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import CheckpointError
from .raw.shards import Extent

if TYPE_CHECKING:
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
    """A writer that can take a tensor from another file."""

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
