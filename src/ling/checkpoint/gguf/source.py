"""Reading a `bailingmoe2` file under the Hugging Face names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...errors import GGUFError
from ...model.names import tensor_specs
from ...text import shown
from ..dtypes import DTYPES
from ..raw.gguf_header import Kind, TensorInfo, nbytes, read_header
from .metadata import config_of
from .names import gguf_specs, in_gguf
from .package import gguf_package
from .sink import PLAIN
from .vocabulary import write_tokenizer


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
            config = config_of(metadata)
            _check_tensors(self._tensors, config)
            self.config = config.replace(dtype=_dtype(self._tensors))
            self.tokenizer_folder = self._tokenizer(metadata)
        except GGUFError as err:
            self.close()
            raise GGUFError(f"{self.path}: {err}") from None
        self._specs = tensor_specs(self.config)
        self._file = self.path.open("rb", buffering=0)

    def _tokenizer(self, metadata: dict[str, object]) -> Path | None:
        self._scratch = tempfile.TemporaryDirectory(prefix="ling-gguf-")
        folder = Path(self._scratch.name)
        return folder if write_tokenizer(metadata, self.config.vocab_size, folder) else None

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the file's precision or in bfloat16 where that is quantised."""
        spec = self._specs[name]
        info, offset, size = self._place(name)
        data = torch.from_numpy(self._read(offset, size))
        dtype = torch.float32 if spec.float32 else DTYPES[self.config.dtype]
        if info.kind.name in PLAIN:
            return data.view(PLAIN[info.kind.name]).reshape(spec.shape).to(dtype)
        return _dequantised(data.numpy(), info.kind, spec.shape).to(dtype)

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
        key, expert = in_gguf(name)
        info = self._tensors[key]
        size = nbytes(self._specs[name].shape, info.kind)
        return info, info.offset + (expert or 0) * size, size

    def _read(self, offset: int, size: int) -> np.ndarray:
        """Bytes at a place, whatever other threads read; one call gives 2 GiB at most."""
        data = np.empty(size, np.uint8)
        view, done = data.data, 0
        while done < size:
            got = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            if not got:
                raise GGUFError(f"{self.path}: shrank while it was read, at byte {offset + done}")
            done += got
        return data


def _check_tensors(held: dict[str, TensorInfo], cfg: ModelConfig) -> None:
    """Every tensor present, none left over, all in shape."""
    specs = gguf_specs(cfg)
    missing = [n for n in specs if n not in held]
    if missing:
        raise GGUFError(f"tensor `{missing[0]}` is missing ({len(missing)} in all)")
    extra = [n for n in held if n not in specs]
    if extra:
        raise GGUFError(f"unexpected tensor {shown(extra[0])} ({len(extra)} in all)")
    for name, spec in specs.items():
        if held[name].shape != spec.shape:
            raise GGUFError(
                f"tensor `{name}` has shape {list(held[name].shape)}, expected {list(spec.shape)}"
            )


def _dtype(held: dict[str, TensorInfo]) -> str:
    kind = held["blk.0.attn_qkv.weight"].kind.name
    return {"f32": "float32", "f16": "float16"}.get(kind, "bfloat16")


def _dequantised(data: np.ndarray, kind: Kind, shape: tuple[int, ...]) -> Tensor:
    gguf = gguf_package()
    rows = data.reshape(*shape[:-1], shape[-1] // kind.block * kind.size)
    values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind.name.upper()])
    return torch.from_numpy(values)
