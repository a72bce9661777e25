"""Where a Hugging Face tensor is in a checkpoint of another layout: a box of one of its tensors."""

from __future__ import annotations

import math
from typing import NamedTuple


class Slice(NamedTuple):
    """The box of `shape` at `start` in the tensor `key`, whose shape is `whole`."""

    key: str
    start: tuple[int, ...]
    shape: tuple[int, ...]
    whole: tuple[int, ...]

    @property
    def box(self) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """The slice without what it is cut from."""
        return self[:3]

    @property
    def offset(self) -> int:
        """Elements of the tensor before the box, which must be contiguous."""
        return sum(n * math.prod(self.whole[i + 1 :]) for i, n in enumerate(self.start))


def whole_tensor(key: str, shape: tuple[int, ...]) -> Slice:
    """All of one tensor."""
    return Slice(key, (0,) * len(shape), shape, shape)


def of_stack(key: str, index: int | None, count: int, shape: tuple[int, ...]) -> Slice:
    """One of `count` tensors that are a stack, or with `index` None a tensor of its own."""
    if index is None:
        return whole_tensor(key, shape)
    return Slice(key, (index, *(0 for _ in shape)), (1, *shape), (count, *shape))
