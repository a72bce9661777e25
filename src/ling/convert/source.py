"""What every reader offers, and which reader a path needs: found by looking, not by flags."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError
from ..files import stopped
from ..model.shards import Extent

# Rows are read from multiples of this: a block of FP8, and whole tiles of packed matrices.
ROWS = 128


class Source(Protocol):
    """Tensors of a checkpoint under the Hugging Face names of `model/names.py`, one at a time.

    `config` describes what is held: its `dtype` is the weights' own, and the MTP layers that the
    checkpoint holds are counted in `num_nextn_predict_layers`. Readers are called by several
    threads.
    """

    kind: str
    """For messages: "Hugging Face folder", "Megatron checkpoint", ..."""
    config: ModelConfig
    tokenizer_folder: Path | None

    def tensor(self, name: str) -> Tensor:
        """Any name of `tensor_specs(config)`; quantised values come as bfloat16."""
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
class ExtentSource(Protocol):
    """A reader that can say where a tensor lies, so that it need not pass through memory."""

    def extent(self, name: str) -> Extent | None:
        """Its place, when what lies there is the tensor as `tensor` gives it."""
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


class TensorRows:
    """Rows of a tensor that is in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def read(self, first: int, count: int) -> Tensor:
        return self._tensor[first : first + count]


def open_source(path: str | Path) -> Source:
    """The reader for a GGUF file, a Hugging Face folder (bf16, FP8 or ours in integers), a run, our
    DCP or a Megatron checkpoint, by looking.

    Raises `CheckpointError` when it is none of them or damaged. Reads headers only.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder{stopped(path)}")
    if not path.is_dir():
        from .gguf import GGUFSource

        return GGUFSource(path)
    from .dcp import DCPSource, find_checkpoint
    from .hf import HFSource
    from .megatron import MegatronSource, find_iteration
    from .packed import PackedSource, is_packed

    if iteration := find_iteration(path):
        return MegatronSource(iteration)
    if checkpoint := find_checkpoint(path):
        return DCPSource(checkpoint)
    return PackedSource(path) if is_packed(path) else HFSource(path)
