"""Which part of a sharded tensor a process holds.

torch's sharded tensors are known by their attributes and imported when there is one: reading a
checkpoint for inference need not wait for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Box = tuple[tuple[int, ...], tuple[int, ...]]


def mesh_of(tensor: Tensor) -> Any:
    """The mesh of ranks that hold parts of a tensor; None if it is not sharded."""
    return getattr(tensor, "device_mesh", None)


def local_part(tensor: Any) -> Tensor:
    """The values that this process holds; all of a tensor that is not sharded."""
    part: Tensor = tensor if mesh_of(tensor) is None else tensor.to_local()
    return part


def local_box(tensor: Any) -> Box:
    """(start, shape) of `local_part` in the whole tensor."""
    if mesh_of(tensor) is None:
        return (0,) * tensor.ndim, tuple(tensor.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, start = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tuple(start), tuple(shape)


def fill_part(target: Tensor, whole: Tensor) -> None:
    """Copy this process's part of `whole`."""
    for dim, (first, count) in enumerate(zip(*local_box(target), strict=True)):
        whole = whole.narrow(dim, first, count)
    local_part(target).copy_(whole)


@dataclass(frozen=True)
class Deferred:
    """A float32 tensor of a checkpoint that is made only where it is written, or taken up where it
    is read, because what it is made from takes less memory.

    `like` has its shape and is spread over ranks as it is; `make` makes this process's part from
    `sources`, `take` is called with the part that was read.
    """

    like: Tensor
    sources: tuple[Tensor, ...]
    make: Callable[..., Tensor]
    take: Callable[[Tensor], None]
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> torch.Size:
        return self.like.shape
