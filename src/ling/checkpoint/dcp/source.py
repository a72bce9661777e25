"""Reading our own checkpoints: torch DCP with the module's names, config.json beside it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ...errors import DCPError
from ..hf.config import read_config
from ..raw.shards import Extent, Stored
from .folder import DCPFolder
from .names import MODEL_PREFIX, dcp_places


class DCPSource:
    """A checkpoint of a run, or a folder that `DCPSink` wrote; checked name by name when opened."""

    kind = "DCP checkpoint"

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        self._held = DCPFolder(folder)
        self.dcp_places = dcp_places(config)
        for key, _, shape in self.dcp_places.values():
            _check(self._held, key, shape)
        dtype = self._held.tensors[MODEL_PREFIX + "model.word_embeddings.weight"].dtype
        self.config = config.replace(dtype=str(dtype).removeprefix("torch."))
        places = (folder, folder / "tokenizer", folder.parent.parent / "tokenizer")
        self.tokenizer_folder = next((p for p in places if (p / "tokenizer.json").is_file()), None)

    def tensor(self, name: str) -> Tensor:
        key, expert, shape = self.dcp_places[name]
        if expert is None:
            return self._held.tensor(key)
        return self._held.region(key, (expert,), (1, *shape[1:]))[0]

    def extent(self, name: str) -> Extent | None:
        key, expert, shape = self.dcp_places[name]
        start = (expert or 0, *(0 for _ in shape[1:])) if shape else ()
        found = self._held.extent(key, start, shape if expert is None else (1, *shape[1:]))
        if found is None or expert is None:
            return found
        return found._replace(stored=Stored(found.stored.dtype, shape[1:]))

    def stored_bytes(self, name: str) -> int:
        key, expert, shape = self.dcp_places[name]
        dtype = self._held.tensors[key].dtype
        return Stored(dtype, shape if expert is None else shape[1:]).nbytes

    def stored_as(self, name: str) -> str:
        """Always floats, as they were trained."""
        return "float"

    def close(self) -> None:
        self._held.close()


def _check(held: DCPFolder, key: str, shape: tuple[int, ...]) -> None:
    if key not in held.tensors:
        raise DCPError(f"{held.folder}: tensor `{key}` is missing")
    found = held.tensors[key]
    if found.shape != shape:
        raise DCPError(
            f"{held.folder}: tensor `{key}` has shape {list(found.shape)}, expected {list(shape)}"
        )
    if not found.dtype.is_floating_point:
        raise DCPError(f"{held.folder}: tensor `{key}` has dtype {found.dtype}, expected a float")
