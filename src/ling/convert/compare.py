"""`--verify`: what was written, read back and compared with the source, tensor by tensor."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor

from ..errors import RunError
from ..model.names import tensor_specs
from .source import Source, open_source

# Error of a format relative to the root mean square of the weights; 0: equal, after a cast.
# e4m3 has 3 mantissa bits: at most 1/16 of each value, 0.026 on normal weights.
BOUNDS = {"bf16": 0.0, "float32": 0.0, "dcp": 0.0, "megatron": 0.0, "fp8": 0.04}
_LOOSEST = 0.2


def compare(source: Source, written: Path, to: str) -> str:
    """Check every tensor that the folder `written` holds; returns a line for the log.

    Raises `RunError` naming the first that differs by more than format `to` explains.
    """
    bound, worst, count = BOUNDS.get(to, _LOOSEST), 0.0, 0
    with contextlib.closing(open_source(written)) as copy:
        for name in tensor_specs(copy.config):
            error = _error(copy.tensor(name), source.tensor(name), exact=bound == 0)
            if not error <= bound:
                raise RunError(f"{written.name}: tensor `{name}` is off by {error:.3g} of its size")
            worst, count = max(worst, error), count + 1
    return f"verified: {count} tensors read back, largest error {worst:.3g}"


def _error(copy: Tensor, original: Tensor, *, exact: bool) -> float:
    if exact:
        return 0.0 if torch.equal(copy, original.to(copy.dtype)) else float("inf")
    difference = (copy.float() - original.float()).square().mean().sqrt()
    return float(difference / original.float().square().mean().sqrt().clamp(min=1e-30))
