"""A tensor's shape and dtype compared with what the model wants, and the error line of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from ..errors import CheckpointError


def check_shape(
    where: object,
    name: str,
    found: Sequence[int],
    expected: Sequence[int],
    error: type[CheckpointError] = CheckpointError,
) -> None:
    """Raise `error` when a tensor of the file or folder `where` has another shape."""
    if tuple(found) != tuple(expected):
        raise error(f"{where}: tensor `{name}` has shape {list(found)}, expected {list(expected)}")


def check_dtype(
    where: object, name: str, found: torch.dtype, expected: Collection[torch.dtype]
) -> None:
    """Raise `CheckpointError` when a tensor has none of the expected dtypes."""
    if found not in expected:
        names = " or ".join(sorted(_name(d) for d in expected))
        raise CheckpointError(
            f"{where}: tensor `{name}` has dtype {_name(found)}, expected {names}"
        )


def check_float(
    where: object, name: str, found: torch.dtype, error: type[CheckpointError] = CheckpointError
) -> None:
    """Raise `error` when a tensor is not of floating-point numbers."""
    if not found.is_floating_point:
        raise error(f"{where}: tensor `{name}` has dtype {_name(found)}, expected a float")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
