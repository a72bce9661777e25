"""The adapters of an engine: their numbers, and what tells the pages of one from another's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.model import ModelConfig
from ..errors import CheckpointError, RequestError
from ..model.adapter import Adapter, LowRank, Target, adapter_targets

MAX_RANK = 64
DIGEST_BYTES = 20


@dataclass(frozen=True)
class AdapterTable:
    """Names of adapters and a hash of each; adapter number k is the k-th name, 0 is none."""

    digests: dict[str, bytes]

    def number(self, name: str | None) -> int:
        """The number of an adapter; None is number 0. Raises `RequestError` 404 for no such one."""
        if name is None:
            return 0
        try:
            return list(self.digests).index(name) + 1
        except ValueError:
            raise RequestError(
                f"there is no adapter `{name[:200]}`",
                status=404,
                code="model_not_found",
                param="model",
            ) from None

    def roots(self, base: bytes) -> list[bytes]:
        """By number, what stands before the first page of a prompt: `base` without an adapter."""
        return [base, *self.digests.values()]


NO_ADAPTERS = AdapterTable({})


def table_of(adapters: Mapping[str, Adapter], cfg: ModelConfig) -> AdapterTable:
    """The table of the adapters that an engine is to run.

    Raises `CheckpointError`, with the first tensor, for one that the model has no place for or
    whose rank is above `MAX_RANK`.
    """
    targets = adapter_targets(cfg)
    for name, adapter in adapters.items():
        for matrix, low_rank in adapter.matrices.items():
            _check(f"adapter `{name}`: {matrix}", low_rank, targets.get(matrix))
    return AdapterTable({name: digest(adapter) for name, adapter in adapters.items()})


def _check(what: str, matrix: LowRank, target: Target | None) -> None:
    if target is None:
        raise CheckpointError(f"{what}: the model has no such matrix, or it takes no adapter")
    rank, stack = matrix.rank, (target.experts,) if target.experts else ()
    if not 1 <= rank <= MAX_RANK:
        raise CheckpointError(
            f"{what}: rank {rank}; adapters of rank 1 to {MAX_RANK} can be served, and "
            "`ling convert --merge` puts a larger one into the weights"
        )
    wanted = ((*stack, rank, target.in_features), (*stack, target.out_features, rank))
    for part, tensor, shape in zip("AB", (matrix.a, matrix.b), wanted, strict=True):
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{what}: {part} has shape {list(tensor.shape)}, expected {list(shape)}"
            )


def digest(adapter: Adapter) -> bytes:
    """A hash of all that an adapter changes: names, scales, values."""
    made = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"adapter")
    for name, (a, b, scale) in sorted(adapter.matrices.items()):
        made.update(
            f"{name} {scale!r} {list(a.shape)} {list(b.shape)} {a.dtype} {b.dtype}".encode()
        )
        for tensor in (a, b):
            made.update(_bytes(tensor))
    return made.digest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().view(torch.uint8).flatten().numpy().data
