"""Any model's weights as packed matrices in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...ops import kernels
from ...ops.formats import BF16, FP8, Format
from ...ops.packing import Packed, packed_bytes
from ..hf.folder import SafetensorsFolder
from ..hf.names import float_tensor, fp8_tensor
from .matrices import empty_matrix, pack_matrix
from .names import (
    EMBEDDING,
    PackedSpec,
    packed_specs,
)


class PackedWeights(Protocol):
    """What the native engine loads: matrices packed, everything else as it is."""

    config: ModelConfig
    format: Format
    mapped_bytes: int
    """What stays in its file, so that the system counts its memory as free."""

    @property
    def nbytes(self) -> int | None:
        """What loading takes, where configuration and format do not tell."""

    def matrix(self, spec: PackedSpec) -> Packed:
        """One packed matrix or stack."""

    def plain(self, name: str) -> Tensor:
        """A norm, router or bias under its Hugging Face name."""

    def embedding(self) -> tuple[Tensor, Tensor | None]:
        """bfloat16 [V, D] and None, or int8 [V, D] with bfloat16 scales [V, D / 32]."""


class PackedAtLoad:
    """Weights of any model, packed in memory as they are read; `tensor` takes Hugging Face
    names.
    """

    mapped_bytes, nbytes = 0, None

    def __init__(self, config: ModelConfig, fmt: Format, tensor: Callable[[str], Tensor]) -> None:
        self.config, self.format, self.tensor = config, fmt, tensor

    def matrix(self, spec: PackedSpec) -> Packed:
        return pack_matrix(spec, self.format, self.tensor)

    def plain(self, name: str) -> Tensor:
        return self.tensor(name)

    def embedding(self) -> tuple[Tensor, Tensor | None]:
        return self.tensor(f"{EMBEDDING}.weight").to(torch.bfloat16), None


class FP8Folder:
    """A folder in the released FP8 layout, checked by `check_names`: its FP8 matrices as they are,
    laid out in tiles one tensor at a time, the rest in bfloat16.

    Raises `CheckpointError` for a scale that is not a finite number above 0.
    """

    mapped_bytes = 0
    format = FP8

    def __init__(self, config: ModelConfig, source: SafetensorsFolder) -> None:
        self.config, self.source = config, source
        self.specs = packed_specs(config)

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices and the embedding once they are loaded."""
        total = 2 * self.config.vocab_size * self.config.hidden_size
        for spec in self.specs.values():
            one = packed_bytes(self._format(spec), spec.rows, spec.cols)
            total += max(spec.experts, 1) * one
        return total

    def _format(self, spec: PackedSpec) -> Format:
        """FP8 if every tensor is, also of the experts beside it: those share their input."""
        every = (self.source.dtype(name) for name in self._beside(spec))
        return FP8 if all(d == torch.float8_e4m3fn for d in every) else BF16

    def _beside(self, spec: PackedSpec) -> Iterator[str]:
        routed = spec.name.replace(".shared_experts.", ".experts.")
        for name in {spec.name, routed, routed.replace(".experts.", ".shared_experts.")}:
            if name in self.specs:
                for e in range(max(self.specs[name].experts, 1)):
                    yield from self.specs[name].parts(e)

    def matrix(self, spec: PackedSpec) -> Packed:
        fmt = self._format(spec)
        if fmt is not FP8:
            return pack_matrix(spec, fmt, self.plain)
        out = empty_matrix(spec, fmt)
        for e in range(max(spec.experts, 1)):
            parts = [fp8_tensor(self.source, name) for name in spec.parts(e)]
            kernels.lay_out_fp8(parts, out[e] if spec.experts else out)
        return out

    def plain(self, name: str) -> Tensor:
        return float_tensor(self.source, name)

    def embedding(self) -> tuple[Tensor, Tensor | None]:
        return self.plain(f"{EMBEDDING}.weight").to(torch.bfloat16), None
