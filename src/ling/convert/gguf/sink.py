"""Writing a `bailingmoe2` file, tensor by tensor, each at its final place."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...config import ModelConfig
from ...errors import UsageError
from .header import KIND_IDS, KINDS, Kind, nbytes, padded
from .metadata import ARCH, check_exportable, metadata_of
from .names import GGUFSpec, gguf_specs, in_gguf
from .package import gguf_package
from .vocabulary import vocabulary_metadata

if TYPE_CHECKING:
    import numpy as np

# `general.file_type` of llama.cpp by the type of most matrices.
FILE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "bf16": 32,
}
GGUF_TYPES = tuple(FILE_TYPES)
_PLAIN = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_QUANTISATION_VERSION = 2


class Place(NamedTuple):
    """Where a tensor goes in the file, and as what."""

    shape: tuple[int, ...]
    kind: Kind
    offset: int


class GGUFSink:
    """Writes one `.gguf` file; memory is one tensor of the source, not one expert stack.

    `path` should be a temporary name: the file is whole only after `finish`. Raises `UsageError`
    for a type or a model that cannot be exported, before anything is written.
    """

    def __init__(
        self,
        path: Path,
        cfg: ModelConfig,
        tokenizer_folder: Path | None,
        *,
        kind: str = "bf16",
        name: str | None = None,
    ) -> None:
        if kind not in GGUF_TYPES:
            raise UsageError(f"no GGUF type `{kind}`; there are {', '.join(GGUF_TYPES)}")
        check_exportable(cfg)
        metadata = {"general.type": "model", "general.name": name or path.stem}
        metadata |= {"general.file_type": FILE_TYPES[kind]}
        metadata |= {"general.quantization_version": _QUANTISATION_VERSION}
        metadata |= metadata_of(cfg) | vocabulary_metadata(tokenizer_folder, cfg.vocab_size)
        if tokenizer_folder is None:
            warnings.warn("no tokenizer: llama.cpp will take token ids only", stacklevel=2)
        kinds = {n: tensor_kind(n, spec, kind) for n, spec in gguf_specs(cfg).items()}
        self._tied = cfg.tie_word_embeddings
        self._places = write_head(path, metadata, gguf_specs(cfg), kinds)
        self._file = path.open("r+b", buffering=0)

    def put(self, name: str, tensor: Tensor) -> None:
        """Write one Hugging Face tensor: a whole GGUF tensor or one slice of a stack."""
        key, expert = in_gguf(name)
        self._write(key, expert or 0, tensor)
        if key == "token_embd.weight" and self._tied:
            self._write("output.weight", 0, tensor)

    def finish(self) -> None:
        """Bring the file to its full length and to the disk."""
        end = max(p.offset + padded(nbytes(p.shape, p.kind)) for p in self._places.values())
        self._file.truncate(end)
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, key: str, index: int, tensor: Tensor) -> None:
        place = self._places[key]
        data = memoryview(_encoded(tensor, place.kind)).cast("B")
        self._file.seek(place.offset + index * len(data))
        while data:  # one call writes 2 GiB at most
            data = data[self._file.write(data) :]


def tensor_kind(name: str, spec: GGUFSpec, kind: str) -> Kind:
    """The type of one tensor in a file of `kind`.

    The head of a 4- or 5-bit file has 8 bits, since its error goes straight into the logits. Rows
    that are not whole blocks stay in bfloat16.
    """
    if spec.float32:
        return KINDS[KIND_IDS["f32"]]
    if name == "output.weight" and kind not in _PLAIN:
        kind = "q8_0"
    chosen = KINDS[KIND_IDS[kind]]
    return chosen if spec.shape[-1] % chosen.block == 0 else KINDS[KIND_IDS["bf16"]]


def write_head(
    path: Path, metadata: dict[str, Any], specs: dict[str, GGUFSpec], kinds: dict[str, Kind]
) -> dict[str, Place]:
    """Write everything before the tensors; returns where each is to go."""
    gguf = gguf_package()
    import numpy as np

    writer = gguf.GGUFWriter(path, ARCH)
    for key, value in metadata.items():
        writer.add_key_value(key, value, *_value_type(gguf, value))
    for name, spec in specs.items():
        kind = gguf.GGMLQuantizationType[kinds[name].name.upper()]
        size = nbytes(spec.shape, kinds[name])
        writer.add_tensor_info(name, spec.shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    places, offset = {}, padded(path.stat().st_size)
    for name, spec in specs.items():
        places[name] = Place(spec.shape, kinds[name], offset)
        offset += padded(nbytes(spec.shape, kinds[name]))
    return places


def _value_type(gguf: Any, value: Any) -> tuple[Any, Any]:
    """The GGUF type of a metadata value, and of its items when it is a list."""
    kinds = gguf.GGUFValueType
    if isinstance(value, list):
        return kinds.ARRAY, kinds.STRING if value and isinstance(value[0], str) else kinds.INT32
    types = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING}
    return types[type(value)], None


def _encoded(tensor: Tensor, kind: Kind) -> np.ndarray:
    """The bytes of a tensor in a type, as an array of uint8."""
    if kind.name in _PLAIN:
        flat = tensor.to(_PLAIN[kind.name]).contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy()
    gguf = gguf_package()
    rows = tensor.float().contiguous().numpy()
    return gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind.name.upper()]).reshape(-1)
