"""Reading Hugging Face folders: bf16, float32 or FP8."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...ops.formats import FP8_BLOCK
from ...ops.kernels import widen_fp8
from ..source import Rows, cut, tokenizer_in
from ..stored import Held, as_stored
from .config import read_config
from .folder import SafetensorsFolder
from .names import SCALE, check_names, float_tensor, fp8_scales


class HFSource:
    """A folder with config.json and safetensors: bf16, float32 or FP8 (which comes as bf16)."""

    kind = "Hugging Face folder"

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        self.tensors = SafetensorsFolder(folder)
        self.config = as_stored(config, self._held(folder))
        check_names(self.config, self.tensors)
        self.tokenizer_folder = tokenizer_in(folder)

    def _held(self, folder: Path) -> Held:
        held = self.tensors

        def rows(name: str, first: int, count: int) -> Tensor:
            into = torch.empty(count, *held.shape(name)[1:], dtype=held.dtype(name))
            return held.rows(name, first, into)

        return Held(folder, held.weight_map, held.shape, held.dtype, rows)

    def tensor(self, name: str) -> Tensor:
        value = self.tensors.tensor(name)
        fp8 = value.dtype == torch.float8_e4m3fn
        return widen_fp8(value, fp8_scales(self.tensors, name)) if fp8 else value

    def values(self, name: str) -> Tensor:
        return float_tensor(self.tensors, name)

    def read_into(self, name: str, target: Tensor) -> bool:
        if self.tensors.dtype(name) != target.dtype:
            return False
        self.tensors.tensor(name, into=target)
        return True

    def box(self, name: str, start: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        held, dtype = self.tensors, self.tensors.dtype(name)
        if dtype == torch.float8_e4m3fn or not shape:
            return cut(self.values(name), start, shape)
        rows = torch.empty(shape[0], *held.shape(name)[1:], dtype=dtype)
        return cut(held.rows(name, start[0], rows), (0, *start[1:]), shape)

    def rows(self, name: str) -> Rows:
        return _HFRows(self.tensors, name)

    def stored_bytes(self, name: str) -> int:
        parts = (name, name + SCALE)
        return sum(self.tensors.nbytes(part) for part in parts if part in self.tensors)

    def stored_as(self, name: str) -> str:
        """Each tensor by its own dtype."""
        return "fp8" if self.tensors.dtype(name) == torch.float8_e4m3fn else "float"

    def close(self) -> None:
        """Nothing stays open between readings."""


class _HFRows:
    """Rows as stored, FP8 as bfloat16; each reading into the same memory."""

    def __init__(self, held: SafetensorsFolder, name: str) -> None:
        self._held, self._name, self._dtype = held, name, held.dtype(name)
        self._scales = fp8_scales(held, name) if self._dtype == torch.float8_e4m3fn else None
        self._memory: Tensor | None = None

    def read(self, first: int, count: int) -> Tensor:
        if self._memory is None or len(self._memory) < count:
            self._memory = torch.empty(count, self._held.shape(self._name)[1], dtype=self._dtype)
        values = self._held.rows(self._name, first, self._memory[:count])
        if self._scales is None:
            return values
        scales = self._scales[first // FP8_BLOCK : -(-(first + count) // FP8_BLOCK)]
        return widen_fp8(values, scales)
