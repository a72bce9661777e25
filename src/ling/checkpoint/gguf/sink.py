"""Writing a `bailingmoe2` file, tensor by tensor, each at its final place."""

from __future__ import annotations

import logging
import math
import os
import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...errors import UsageError
from ...files.atomic import final_name
from ...model.names import tensor_specs
from ..raw.gguf_header import KIND_IDS, KINDS, Kind, nbytes
from ..raw.shards import write_all
from ..sink import SinkOptions, cast, check_finite
from ..slices import Slice
from ..source import Rows, TensorRows, pieces
from .layout import general_metadata, lay_out
from .metadata import check_exportable, metadata_of
from .names import GGUFSpec, gguf_slices, gguf_specs
from .package import gguf_package
from .vocabulary import vocabulary_metadata

log = logging.getLogger("ling.convert")

# llama.cpp's `general.file_type` by the type of most matrices.
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
FILE = "model.gguf"
PLAIN = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class GGUFSink:
    """Writes `model.gguf` into a folder; memory is some rows of a tensor, not a whole stack.

    Raises `UsageError` for a type or a model that cannot be exported, before anything is written.
    """

    def __init__(self, folder: Path, cfg: ModelConfig, options: SinkOptions) -> None:
        kind = options.gguf_type
        if kind not in FILE_TYPES:
            raise UsageError(f"no GGUF type `{kind}`; there are {', '.join(FILE_TYPES)}")
        if options.world_size > 1:
            raise UsageError("a GGUF export is one file: run it as one process")
        check_exportable(cfg)
        if kind not in PLAIN:
            gguf_package()  # say that it is absent now, not after the first gigabyte
        self._silent = options.tokenizer is None
        name = final_name(folder).removesuffix(".gguf")
        name = os.fsencode(name).decode("utf-8", "replace")
        metadata = general_metadata(name, FILE_TYPES[kind]) | metadata_of(cfg)
        metadata |= vocabulary_metadata(options.tokenizer, cfg.vocab_size)
        specs = gguf_specs(cfg)
        kinds = {n: _kind(n, spec, kind) for n, spec in specs.items()}
        self._head, self._places, size = lay_out(metadata, specs, kinds)
        self._path, self._tied, self._fd = folder / FILE, cfg.tie_word_embeddings, -1
        self._opening = threading.Lock()
        self._shapes = {name: spec.shape for name, spec in tensor_specs(cfg).items()}
        self._slices = gguf_slices(cfg)
        self.names = list(self._shapes)
        self.files = {FILE: size}

    def put(self, name: str, tensor: Tensor) -> None:
        """Write one Hugging Face tensor: a whole GGUF tensor or one slice of a stack."""
        self.put_rows(name, TensorRows(tensor.reshape(-1, tensor.shape[-1])))

    def takes_rows(self, name: str) -> bool:
        """Every matrix."""
        return len(self._shapes[name]) == 2

    def put_rows(self, name: str, rows: Rows) -> None:
        """`put` for a matrix, of which quantising makes float32 copies."""
        with self._opening:
            if self._fd < 0:
                self._open()
        place = self._slices[name]
        self._put(place, self._shapes[name], rows)
        if place.key == "token_embd.weight" and self._tied:
            self._put(place._replace(key="output.weight"), self._shapes[name], rows)

    def _open(self) -> None:
        """Make the file, head and full length included."""
        if self._silent:
            log.warning("no tokenizer: llama.cpp will take token ids only")
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.truncate(self._fd, self.files[FILE])
        write_all(self._fd, memoryview(self._head), 0)

    def finish(self) -> None:
        """Bring the file to the disk and close it."""
        os.fsync(self._fd)
        os.close(self._fd)

    def _put(self, part: Slice, shape: tuple[int, ...], rows: Rows) -> None:
        place = self._places[part.key]
        offset = place.offset + nbytes((part.offset,), place.kind)
        for first, count in pieces(math.prod(shape[:-1]), shape[-1]):
            data = _encoded(part.key, rows.read(first, count), place.kind).data
            write_all(self._fd, data, offset)
            offset += len(data)


def _kind(name: str, spec: GGUFSpec, kind: str) -> Kind:
    """The type of one tensor in a file of `kind`.

    The head of a 4- or 5-bit file has 8 bits, since its error goes straight into the logits. Rows
    that are not whole blocks stay in bfloat16.
    """
    if spec.float32:
        return KINDS[KIND_IDS["f32"]]
    if name == "output.weight" and kind not in PLAIN:
        kind = "q8_0"
    chosen = KINDS[KIND_IDS[kind]]
    return chosen if spec.shape[-1] % chosen.block == 0 else KINDS[KIND_IDS["bf16"]]


def _encoded(name: str, tensor: Tensor, kind: Kind) -> np.ndarray:
    """The bytes of a tensor in a type; those that cannot hold its values are refused."""
    if kind.name in PLAIN:
        flat = cast(name, tensor, PLAIN[kind.name]).contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy()
    check_finite(name, tensor, kind.name)
    gguf = gguf_package()
    rows = tensor.float().contiguous().numpy()
    return gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind.name.upper()]).reshape(-1)
