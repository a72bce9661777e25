"""What packing the original again gives, held against a folder in an integer format.

How far packing moves a weight depends on the weights: trained ones have outliers that random ones
have not. So the measure is not a fixed error but what the same packing does to the same weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoint.packed.matrices import (
    empty_matrix,
    pack_embedding,
    unpack_embedding,
    unpack_matrix,
)
from ..checkpoint.packed.names import EMBEDDING, PackedSpec, packed_specs
from ..checkpoint.packed.source import PackedSource
from ..checkpoint.source import Source
from ..ops import kernels

# Weights of a matrix that `--calibrate` weighs unequally, or that were rounded before packing.
_RATIO, _SLACK = 1.5, 2e-3


class Repacked(NamedTuple):
    """One tensor packed again: whether the bits are those of the folder, and its error."""

    same_bits: bool
    error: float

    def explains(self, error: float) -> bool:
        """Whether a folder's error is what packing costs, as it is where the bits are the same."""
        return self.same_bits or error <= _RATIO * self.error + _SLACK


class Repacking:
    """`original` packed as `folder` is, one matrix at a time, by Hugging Face name."""

    def __init__(self, folder: PackedSource, original: Source) -> None:
        self._folder, self._original = folder.folder, original
        self._where = {
            name: (spec, e)
            for spec in packed_specs(folder.config).values()
            for e in range(max(spec.experts, 1))
            for name in spec.parts(e)
        }
        self._done: dict[str, Repacked] = {}

    def of(self, name: str) -> Repacked:
        """For a name that the folder holds packed; tensors of one matrix are best asked in turn."""
        if name == f"{EMBEDDING}.weight":
            return self._embedding(name)
        if name not in self._done:
            self._done = self._matrix(*self._where[name])
        return self._done.pop(name)

    def _embedding(self, name: str) -> Repacked:
        values = self._original.tensor(name)
        found, made = self._folder.embedding(), pack_embedding(values)
        same = all(b is not None and torch.equal(a, b) for a, b in zip(made, found, strict=True))
        return Repacked(same, nrmse(values, unpack_embedding(*made)))

    def _matrix(self, spec: PackedSpec, expert: int) -> dict[str, Repacked]:
        names = spec.parts(expert)
        values = [self._original.tensor(name) for name in names]
        alone = replace(spec, experts=0)
        made = empty_matrix(alone, self._folder.format.of_matrix(spec.name))
        kernels.pack(values, made)
        found = self._folder.matrix(spec)
        found = found[expert] if spec.experts else found
        assert made.scales is not None
        assert found.scales is not None
        same = torch.equal(made.data, found.data) and torch.equal(made.scales, found.scales)
        back = unpack_matrix(alone, made)
        errors = (nrmse(x, y) for x, y in zip(values, back, strict=True))
        return {name: Repacked(same, e) for name, e in zip(names, errors, strict=True)}


def nrmse(x: Tensor, y: Tensor) -> float:
    """Root mean square of the difference over that of `x`."""
    size = x.float().square().mean().sqrt().clamp_min(1e-30)
    return float((x.float() - y.float()).square().mean().sqrt() / size)
