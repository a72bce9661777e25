"""Our own checkpoints: torch DCP with the module's names, config.json beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import DCPError
from ..model.dcp import DCPFolder, DCPWriter
from ..model.names import in_module, tensor_specs
from ..model.shards import Extent, Stored
from ..model.weights import DTYPES, read_config
from .sink import SinkOptions, cast

_STEP = r"step-[0-9]{1,18}"


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint that `path` is, or the newest finished one of the run that it is."""
    if (path / ".metadata").is_file():
        return path
    steps = [p for p in (path / "checkpoints").glob("step-*") if re.fullmatch(_STEP, p.name)]
    found = [p for p in steps if (p / "manifest.json").is_file()]
    return max(found, key=lambda p: int(p.name.removeprefix("step-")), default=None)


class DCPSource:
    """A checkpoint of a run, or a folder that `DCPSink` wrote; checked name by name when opened."""

    kind = "DCP checkpoint"

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        self._held = DCPFolder(folder)
        self._places = _places(config)
        for key, _, shape in self._places.values():
            _check(self._held, key, shape)
        dtype = self._held.tensors[_KEY + "model.word_embeddings.weight"].dtype
        self.config = config.replace(dtype=str(dtype).removeprefix("torch."))
        places = (folder, folder / "tokenizer", folder.parent.parent / "tokenizer")
        self.tokenizer_folder = next((p for p in places if (p / "tokenizer.json").is_file()), None)

    def tensor(self, name: str) -> Tensor:
        key, expert, shape = self._places[name]
        if expert is None:
            return self._held.tensor(key)
        return self._held.region(key, (expert,), (1, *shape[1:]))[0]

    def extent(self, name: str) -> Extent | None:
        key, expert, shape = self._places[name]
        start = (expert or 0, *(0 for _ in shape[1:])) if shape else ()
        found = self._held.extent(key, start, shape if expert is None else (1, *shape[1:]))
        if found is None or expert is None:
            return found
        return found._replace(stored=Stored(found.stored.dtype, shape[1:]))

    def stored_bytes(self, name: str) -> int:
        key, expert, shape = self._places[name]
        dtype = self._held.tensors[key].dtype
        return Stored(dtype, shape if expert is None else shape[1:]).nbytes

    def stored_as(self, name: str) -> str:
        """Always floats, as they were trained."""
        return "float"

    def close(self) -> None:
        self._held.close()


_KEY = "model."


def _places(cfg: ModelConfig) -> dict[str, tuple[str, int | None, tuple[int, ...]]]:
    """Key, slice of the stack and shape of the whole, by Hugging Face name."""
    places = {}
    for name, spec in tensor_specs(cfg).items():
        key, expert = in_module(name)
        shape = spec.shape if expert is None else (cfg.num_experts, *spec.shape)
        places[name] = (_KEY + key, expert, shape)
    return places


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


class DCPSink:
    """Our DCP layout, an expert per chunk; torch's own loader reads it too."""

    def __init__(self, folder: Path, cfg: ModelConfig, options: SinkOptions) -> None:
        dtype = options.dtype or DTYPES[cfg.dtype]
        self.folder = folder
        specs = tensor_specs(cfg)
        self.names = list(specs)
        self._places = _places(cfg)
        tensors = {
            key: Stored(torch.float32 if specs[n].float32 else dtype, shape)
            for n, (key, _, shape) in self._places.items()
        }
        self._writer = DCPWriter(folder, tensors, [self._box(n) for n in specs])
        named = cfg.replace(dtype=str(dtype).removeprefix("torch."))
        self._config = json.dumps(named.to_dict(), indent=2) + "\n"
        self.files = {**self._writer.files, "config.json": len(self._config.encode())}

    def _box(self, name: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        key, expert, shape = self._places[name]
        if expert is None:
            return key, (0,) * len(shape), shape
        return key, (expert, *(0 for _ in shape[1:])), (1, *shape[1:])

    def put(self, name: str, tensor: Tensor) -> None:
        key, start, shape = self._box(name)
        value = cast(name, tensor, self._writer.tensors[key].dtype)
        self._writer.put(key, start, value.reshape(shape))

    def finish(self) -> None:
        self._writer.finish()
        (self.folder / "config.json").write_text(self._config, "utf-8")
