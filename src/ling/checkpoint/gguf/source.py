"""Reading a `bailingmoe2` file under the Hugging Face names."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...errors import GGUFError
from ...files.guarded import pread_into
from ...model.names import tensor_specs
from ...text import shown
from ..checks import check_shape
from ..dtypes import DTYPES
from ..raw.gguf_header import Kind, TensorInfo, nbytes, read_header
from .metadata import config_of
from .names import gguf_slices, gguf_specs
from .package import gguf_package
from .sink import PLAIN
from .vocabulary import write_tokenizer

SCRATCH = "ling-gguf-"


def find_file(path: Path) -> Path | None:
    """The file, for whatever is no folder can only be one."""
    return None if path.is_dir() else path


def tokenizer_folder(path: Path) -> Path | None:
    """The tokenizer of a file as a folder that is removed when Python exits."""
    metadata, _ = read_header(path)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with named(path):
        return _rebuilt(metadata, config_of(metadata), folder)


def _rebuilt(metadata: dict[str, Any], cfg: ModelConfig, folder: Path) -> Path | None:
    return folder if write_tokenizer(metadata, cfg.vocab_size, folder) else None


class GGUFSource:
    """A checked file, read one tensor (one expert) at a time; nothing is mapped.

    `config.dtype` is that of the file's matrices, and bfloat16 where they are quantised. Raises
    `GGUFError`.
    """

    kind = "GGUF file"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        metadata, self._tensors = read_header(self.path)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        try:
            with named(self.path):
                config = config_of(metadata)
            _check_tensors(self.path, self._tensors, config)
            self.config = config.replace(dtype=_dtype(self._tensors))
            with named(self.path):
                self._scratch = tempfile.TemporaryDirectory(prefix=SCRATCH)
                self.tokenizer_folder = _rebuilt(metadata, config, Path(self._scratch.name))
        except GGUFError:
            self.close()
            raise
        self._specs, self._slices = tensor_specs(self.config), gguf_slices(self.config)
        self._file = self.path.open("rb", buffering=0)

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the file's precision or in bfloat16 where that is quantised."""
        spec = self._specs[name]
        return self.values(name).to(torch.float32 if spec.float32 else DTYPES[self.config.dtype])

    def values(self, name: str) -> Tensor:
        shape = self._specs[name].shape
        info, offset, size = self._place(name)
        data = self._read(offset, size)
        if info.kind.name in PLAIN:
            return torch.from_numpy(data).view(PLAIN[info.kind.name]).reshape(shape)
        return _dequantised(data, info.kind, shape)

    def stored_bytes(self, name: str) -> int:
        """Bytes of the file that hold `name`."""
        return self._place(name)[2]

    def stored_as(self, name: str) -> str:
        """ "gguf" where values are quantised."""
        return "float" if self._place(name)[0].kind.name in PLAIN else "gguf"

    def close(self) -> None:
        """Give back the file and the rebuilt tokenizer folder."""
        if self._scratch is not None:
            self._scratch.cleanup()
        if hasattr(self, "_file"):
            self._file.close()

    def _place(self, name: str) -> tuple[TensorInfo, int, int]:
        place = self._slices[name]
        info = self._tensors[place.key]
        start = info.offset + nbytes((place.offset,), info.kind)
        return info, start, nbytes(place.shape, info.kind)

    def _read(self, offset: int, size: int) -> np.ndarray:
        """Bytes from `offset`, whatever other threads read."""
        data = np.empty(size, np.uint8)
        done = pread_into(self._file.fileno(), data.data, offset)
        if done < size:
            raise GGUFError(f"{self.path}: shrank while it was read, at byte {offset + done}")
        return data


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the file's name before the error line of what its metadata says."""
    try:
        yield
    except GGUFError as err:
        raise GGUFError(f"{path}: {err}") from None


def _check_tensors(path: Path, held: dict[str, TensorInfo], cfg: ModelConfig) -> None:
    """Every tensor present, none left over, all in shape."""
    specs = gguf_specs(cfg)
    missing = [n for n in specs if n not in held]
    if missing:
        raise GGUFError(f"{path}: tensor `{missing[0]}` is missing ({len(missing)} in all)")
    extra = [n for n in held if n not in specs]
    if extra:
        raise GGUFError(f"{path}: unexpected tensor {shown(extra[0])} ({len(extra)} in all)")
    for name, spec in specs.items():
        check_shape(path, name, held[name].shape, spec.shape, GGUFError)


def _dtype(held: dict[str, TensorInfo]) -> str:
    kind = held["blk.0.attn_qkv.weight"].kind.name
    return {"f32": "float32", "f16": "float16"}.get(kind, "bfloat16")


def _dequantised(data: np.ndarray, kind: Kind, shape: tuple[int, ...]) -> Tensor:
    gguf = gguf_package()
    rows = data.reshape(*shape[:-1], shape[-1] // kind.block * kind.size)
    values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind.name.upper()])
    return torch.from_numpy(values)
