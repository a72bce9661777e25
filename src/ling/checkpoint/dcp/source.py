"""Reading our own checkpoints: torch DCP with the module's names, config.json beside it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ...model.names import tensor_specs
from ..hf.config import read_config
from ..raw.shards import Extent
from ..source import tokenizer_in
from .folder import DCPFolder
from .names import MODEL_PREFIX, dcp_slices


def tokenizer_folder(folder: Path) -> Path | None:
    """Of a checkpoint: beside it, or what the run that it belongs to keeps."""
    return tokenizer_in(folder, folder / "tokenizer", folder.parent.parent / "tokenizer")


class DCPSource:
    """A checkpoint of a run, or a folder that `DCPSink` wrote; checked name by name when opened."""

    kind = "DCP checkpoint"

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        self._held = DCPFolder(folder)
        self._slices = dcp_slices(config)
        self._specs = tensor_specs(config)
        for place in self._slices.values():
            self._held.check(place)
        dtype = self._held.tensors[MODEL_PREFIX + "model.word_embeddings.weight"].dtype
        self.config = config.replace(dtype=str(dtype).removeprefix("torch."))
        self.tokenizer_folder = tokenizer_folder(folder)

    def tensor(self, name: str) -> Tensor:
        return self._held.slice(self._slices[name]).reshape(self._specs[name].shape)

    def values(self, name: str) -> Tensor:
        return self.tensor(name)

    def extent(self, name: str) -> Extent | None:
        return self._held.slice_extent(self._slices[name], self._specs[name].shape)

    def stored_bytes(self, name: str) -> int:
        return self._held.slice_bytes(self._slices[name])

    def stored_as(self, name: str) -> str:
        """Always floats, as they were trained."""
        return "float"

    def close(self) -> None:
        self._held.close()
