"""What every reader of a checkpoint offers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..config.model import ModelConfig
from .raw.shards import Extent

# Rows are read from multiples of this: a block of FP8, and whole tiles of packed matrices.
ROWS = 128


# Values at a time: with their float32 copies and results about what a core's own cache holds.
PIECE_VALUES = 1 << 20


class Source(Protocol):
    """Tensors of a checkpoint under the Hugging Face names of `model/names.py`, one at a time.

    `config` describes what is there: its `dtype` is the weights' own, and the MTP layers that the
    checkpoint has are counted in `num_nextn_predict_layers`. Readers are called by several
    threads.
    """

    kind: str
    """For messages: "Hugging Face folder", "Megatron checkpoint", ..."""
    config: ModelConfig
    tokenizer_folder: Path | None

    def tensor(self, name: str) -> Tensor:
        """Any name of `tensor_specs(config)`; quantised values come as bfloat16."""
        ...

    def values(self, name: str) -> Tensor:
        """Like `tensor`, but quantised values come unrounded, as float32."""
        ...

    def stored_bytes(self, name: str) -> int:
        """Bytes that reading it takes from the disk."""
        ...

    def stored_as(self, name: str) -> str:
        """Of what precision the values on the disk are: "float", "fp8", "gguf" (in blocks) or a row
        of `ops.formats`."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class DirectSource(Protocol):
    """A reader that can read a tensor into memory of the caller's."""

    def read_into(self, name: str, target: Tensor) -> bool:
        """Fill `target` with what `values` gives; False where that has another dtype."""
        ...


@runtime_checkable
class BoxSource(Protocol):
    """A reader that can read a part of a tensor without the rest."""

    def box(self, name: str, start: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        """What `values` gives of the box of `shape` at `start`."""
        ...


@runtime_checkable
class ExtentSource(Protocol):
    """A reader that can say where a tensor is on disk, so that it need not pass through memory."""

    def extent(self, name: str) -> Extent | None:
        """Its bytes on disk, when those are the tensor as `tensor` gives it."""
        ...


class Rows(Protocol):
    """A matrix on the disk, of which a few rows are in memory at a time."""

    def read(self, first: int, count: int) -> Tensor:
        """Rows from `first`, a multiple of `ROWS`, on; good until the next call."""
        ...


@runtime_checkable
class RowSource(Protocol):
    """A reader that need not have a whole matrix in memory."""

    def rows(self, name: str) -> Rows:
        """What `tensor` gives, for a name whose tensor is a matrix."""
        ...


def tokenizer_in(*folders: Path) -> Path | None:
    """The first of the folders that has a tokenizer."""
    return next((f for f in folders if (f / "tokenizer.json").is_file()), None)


def cut(values: Tensor, start: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """The box of `shape` at `start` of a tensor in memory."""
    return values[tuple(slice(first, first + n) for first, n in zip(start, shape, strict=True))]


def pieces(rows: int, cols: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each part in which a matrix is read."""
    step = max(PIECE_VALUES // cols // ROWS, 1) * ROWS
    for first in range(0, rows, step):
        yield first, min(step, rows - first)


class TensorRows:
    """Rows of a tensor that is in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def read(self, first: int, count: int) -> Tensor:
        return self._tensor[first : first + count]
