"""Model folders in our integer formats or FP8, and any model's weights as packed matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError
from ..ops.formats import FORMATS, Format, Packed, packed_shapes
from .folder import SafetensorsFolder
from .names import in_module, tensor_specs
from .packed import (
    EMBEDDING,
    EMBEDDING_GROUP,
    PackedSpec,
    empty,
    fill_fp8,
    format_in,
    format_of,
    pack_matrix,
    packed_specs,
)
from .weights import float_tensor, fp8_tensor, read_config, read_quantization


class PackedWeights(Protocol):
    """What the native engine loads: matrices packed, everything else as it is."""

    config: ModelConfig
    format: Format
    mapped_bytes: int
    """What stays in its file, so that the system counts its memory as free."""

    def matrix(self, spec: PackedSpec) -> Packed:
        """One packed matrix or stack."""

    def plain(self, name: str) -> Tensor:
        """A norm, router or bias under its Hugging Face name."""

    def embedding(self) -> tuple[Tensor, Tensor | None]:
        """bfloat16 [V, D] and None, or int8 [V, D] with bfloat16 scales [V, D / 32]."""


def plain_names(cfg: ModelConfig) -> list[str]:
    """Hugging Face names of what a packed folder stores as it is."""
    packed = {name for spec in packed_specs(cfg).values() for name in spec.sources}
    packed.add(f"{EMBEDDING}.weight")
    experts = ".mlp.experts."
    return [n for n in tensor_specs(cfg) if n not in packed and experts not in n]


class PackedFolder:
    """A folder written by `ling convert --to int4` or the like; tensors are mapped, not read.

    Raises `CheckpointError` naming the first tensor that is missing or of another shape or dtype.
    """

    def __init__(self, folder: str | Path) -> None:
        self.config = read_config(folder)
        quantization = read_quantization(folder)
        if quantization is None or quantization.get("quant_method") != "ling":
            raise CheckpointError(f"{folder}: not a folder in an integer format of ours")
        self.format = format_of(quantization, folder)
        self.source = SafetensorsFolder(folder)
        self.specs = packed_specs(self.config)
        self._check(folder)
        self.mapped_bytes = sum(self.source.nbytes(name) for name in self.source.weight_map)

    def _check(self, folder: str | Path) -> None:
        for name, (shape, dtype) in packed_plan(self.config, self.format).items():
            if name not in self.source:
                raise CheckpointError(f"{folder}: tensor `{name}` is missing")
            if self.source.shape(name) != shape:
                raise CheckpointError(
                    f"{folder}: tensor `{name}` has shape {list(self.source.shape(name))}, "
                    f"expected {list(shape)}"
                )
            found = self.source.dtype(name)
            plain = not name.endswith((".qweight", ".scales"))
            if found != dtype and not (plain and found.is_floating_point):
                raise CheckpointError(
                    f"{folder}: tensor `{name}` has dtype {found}, expected {dtype}"
                )

    def matrix(self, spec: PackedSpec) -> Packed:
        data, scales = (self.source.view(f"{spec.name}.{part}") for part in ("qweight", "scales"))
        return Packed(format_in(self.format, spec), spec.rows, spec.cols, data, scales)

    def plain(self, name: str) -> Tensor:
        return self.source.tensor(name)

    def embedding(self) -> tuple[Tensor, Tensor | None]:
        return self.source.view(f"{EMBEDDING}.qweight"), self.source.view(f"{EMBEDDING}.scales")


def packed_names(cfg: ModelConfig, fmt: Format) -> dict[str, tuple[int, ...]]:
    """Every tensor of a packed folder and its shape, in the order they are written."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{EMBEDDING}.qweight": (cfg.vocab_size, cfg.hidden_size),
        f"{EMBEDDING}.scales": (cfg.vocab_size, cfg.hidden_size // EMBEDDING_GROUP),
    }
    every = tensor_specs(cfg)
    shapes.update({name: every[name].shape for name in plain_names(cfg)})
    for spec in packed_specs(cfg).values():
        data, scales = packed_shapes(format_in(fmt, spec), spec.rows, spec.cols)
        lead = (spec.experts,) if spec.experts else ()
        shapes[f"{spec.name}.qweight"] = (*lead, *data)
        if scales is not None:
            shapes[f"{spec.name}.scales"] = (*lead, *scales)
    return shapes


def packed_plan(cfg: ModelConfig, fmt: Format) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor of a packed folder."""
    plain = tensor_specs(cfg)

    def dtype(name: str) -> torch.dtype:
        if name.endswith(".qweight"):
            return torch.int8 if name.startswith(EMBEDDING) else torch.uint8
        if name.endswith(".scales"):
            return torch.bfloat16
        return torch.float32 if plain[name].float32 else torch.bfloat16

    return {name: (shape, dtype(name)) for name, shape in packed_names(cfg, fmt).items()}


class PackedAtLoad:
    """Weights of any model, packed in memory as they are read; `tensor` takes Hugging Face
    names.
    """

    mapped_bytes = 0

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
    format = FORMATS["fp8"]

    def __init__(self, config: ModelConfig, source: SafetensorsFolder) -> None:
        self.config, self.source = config, source
        self.specs = packed_specs(config)

    @staticmethod
    def is_one(source: SafetensorsFolder) -> bool:
        """Whether a folder holds FP8 tensors."""
        return any(source.dtype(name) == torch.float8_e4m3fn for name in source.weight_map)

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices and the embedding once they are loaded."""
        total = 2 * self.config.vocab_size * self.config.hidden_size
        for spec in self.specs.values():
            fmt = self._format(spec)
            data, scales = packed_shapes(fmt, spec.rows, spec.cols)
            one = math.prod(data) + math.prod(scales or (0,)) * fmt.scale_dtype.itemsize
            total += max(spec.experts, 1) * one
        return total

    def _format(self, spec: PackedSpec) -> Format:
        """FP8 if every tensor is, also of the experts beside it: those share their input."""
        every = (self.source.dtype(name) for name in self._beside(spec))
        return FORMATS["fp8" if all(d == torch.float8_e4m3fn for d in every) else "bf16"]

    def _beside(self, spec: PackedSpec) -> Iterator[str]:
        routed = spec.name.replace(".shared_experts.", ".experts.")
        for name in {spec.name, routed, routed.replace(".experts.", ".shared_experts.")}:
            if name in self.specs:
                for e in range(max(self.specs[name].experts, 1)):
                    yield from self.specs[name].parts(e)

    def matrix(self, spec: PackedSpec) -> Packed:
        fmt = self._format(spec)
        if fmt.kind != 4:
            return pack_matrix(spec, fmt, self.plain)
        out = empty(spec, fmt)
        for e in range(max(spec.experts, 1)):
            parts = [fp8_tensor(self.source, name) for name in spec.parts(e)]
            fill_fp8(out[e] if spec.experts else out, parts)
        return out

    def plain(self, name: str) -> Tensor:
        return float_tensor(self.source, name)

    def embedding(self) -> tuple[Tensor, Tensor | None]:
        return self.plain(f"{EMBEDDING}.weight").to(torch.bfloat16), None


def module_tensors(state: dict[str, Tensor]) -> Callable[[str], Tensor]:
    """Tensors of a module's state under their Hugging Face names."""

    def tensor(name: str) -> Tensor:
        key, expert = in_module(name)
        return state[key] if expert is None else state[key][expert]

    return tensor
