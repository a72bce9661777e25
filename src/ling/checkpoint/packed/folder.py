"""A folder in one of our integer formats, mapped as it is on disk."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError
from ...ops.packing import Packed
from ...text import shown
from ..checks import check_dtype, check_shape
from ..hf.config import read_config, read_quantization
from ..hf.folder import SafetensorsFolder
from ..stored import with_stored_mtp
from .names import (
    EMBEDDING,
    PackedSpec,
    format_of,
    packed_plan,
    packed_specs,
)


class PackedFolder:
    """A folder written by `ling convert --to int4` or the like; tensors are mapped, not read.

    Raises `CheckpointError` naming the first tensor that is missing or of another shape or dtype.
    """

    def __init__(self, folder: str | Path) -> None:
        config = read_config(folder)
        quantization = read_quantization(folder)
        if quantization is None or quantization.get("quant_method") != "ling":
            raise CheckpointError(f"{folder}: not a folder in an integer format of ling")
        self.format = format_of(quantization, folder)
        self.source = SafetensorsFolder(folder)
        self.config = with_stored_mtp(config, self.source.weight_map)
        self.specs = packed_specs(self.config)
        self._check(folder)
        self.nbytes = None
        self.mapped_bytes = sum(self.source.nbytes(name) for name in self.source.weight_map)

    def _check(self, folder: str | Path) -> None:
        plan = packed_plan(self.config, self.format)
        for name in self.source.weight_map:
            if name not in plan:
                raise CheckpointError(
                    f"{folder}: unexpected tensor {shown(name)}; does config.json belong to these "
                    "weights?"
                )
        for name, (shape, dtype) in plan.items():
            if name not in self.source:
                raise CheckpointError(f"{folder}: tensor `{name}` is missing")
            check_shape(folder, name, self.source.shape(name), shape)
            found = self.source.dtype(name)
            plain = not name.endswith((".qweight", ".scales"))
            if not (plain and found.is_floating_point):
                check_dtype(folder, name, found, {dtype})

    def matrix(self, spec: PackedSpec) -> Packed:
        data, scales = (self.source.view(f"{spec.name}.{part}") for part in ("qweight", "scales"))
        return Packed(self.format.of_matrix(spec.name), spec.rows, spec.cols, data, scales)

    def plain(self, name: str) -> Tensor:
        return self.source.tensor(name)

    def embedding(self) -> tuple[Tensor, Tensor | None]:
        return self.source.view(f"{EMBEDDING}.qweight"), self.source.view(f"{EMBEDDING}.scales")
