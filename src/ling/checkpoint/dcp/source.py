"""Reading our own checkpoints: torch DCP with the module's names, config.json beside it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ...model.names import tensor_specs
from ..hf.config import read_config
from ..raw.shards import Extent
from ..run_folder import refuse_adapters
from ..source import tokenizer_in
from ..stored import Held, as_stored
from .folder import DCPFolder
from .names import found_slices, model_keys


def tokenizer_folder(folder: Path) -> Path | None:
    """Of a checkpoint: beside it, or what the run that it belongs to keeps."""
    return tokenizer_in(folder, folder / "tokenizer", folder.parent.parent / "tokenizer")


class DCPSource:
    """A checkpoint of a run, a folder that `DCPSink` wrote, or another trainer's with the released
    names and `config.json` beside it; checked name by name when opened."""

    kind = "DCP checkpoint"

    def __init__(self, folder: Path) -> None:
        refuse_adapters(folder)
        config = read_config(folder)
        self._held = DCPFolder(folder)
        keys = model_keys(self._held.tensors)
        self.config = as_stored(config, self._look(folder, keys))
        self._slices = found_slices(self.config, keys)
        self._specs = tensor_specs(self.config)
        for place in self._slices.values():
            self._held.check(place)
        self.tokenizer_folder = tokenizer_folder(folder)

    def _look(self, folder: Path, keys: dict[str, str]) -> Held:
        tensors, held = self._held.tensors, self._held

        def rows(name: str, first: int, count: int) -> Tensor:
            return held.region(keys[name], (first,), (count, *tensors[keys[name]].shape[1:]))

        return Held(
            folder,
            keys,
            lambda name: tensors[keys[name]].shape,
            lambda name: tensors[keys[name]].dtype,
            rows,
        )

    def tensor(self, name: str) -> Tensor:
        return self._held.slice(self._slices[name]).reshape(self._specs[name].shape)

    def values(self, name: str) -> Tensor:
        return self.tensor(name)

    def box(self, name: str, start: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        place = self._slices[name]
        alone = len(place.shape) - len(shape)  # the dimension of a stack, of which it is one
        inner = zip(place.start[alone:], start, strict=True)
        first = (*place.start[:alone], *(a + b for a, b in inner))
        return self._held.region(place.key, first, (1,) * alone + shape).reshape(shape)

    def extent(self, name: str) -> Extent | None:
        return self._held.slice_extent(self._slices[name], self._specs[name].shape)

    def stored_bytes(self, name: str) -> int:
        return self._held.slice_bytes(self._slices[name])

    def stored_as(self, name: str) -> str:
        """Always floats, as they were trained."""
        return "float"

    def close(self) -> None:
        self._held.close()
