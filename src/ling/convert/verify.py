"""`ling verify`: is a model folder sound, and how far are two apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..model.names import tensor_specs
from ..model.weights import SafetensorsFolder, check_names, read_config


def verify(a: str | Path, b: str | Path | None = None) -> dict[str, Any]:
    """Names, shapes and finite values of `a`; with `b` the largest difference of any tensor.

    Raises `CheckpointError` naming the first tensor that is wrong.
    """
    cfg = read_config(a)
    first = SafetensorsFolder(a)
    check_names(cfg, first)
    second = None
    if b is not None:
        second = SafetensorsFolder(b)
        check_names(cfg, second)
    worst, where, elements = 0.0, "", 0
    for name in tensor_specs(cfg):
        x = first.tensor(name)
        elements += x.numel()
        if not torch.isfinite(x.float()).all():
            raise CheckpointError(f"{a}: tensor `{name}` holds NaN or infinity")
        if second is not None:
            difference = float((x.float() - second.tensor(name).float()).abs().max())
            if difference > worst:
                worst, where = difference, name
    count = len(tensor_specs(cfg))
    summary = f"{a}: {count} tensors, {elements:,} values, all present, in shape and finite"
    report: dict[str, Any] = {"tensors": count, "values": elements, "summary": summary}
    if second is not None:
        report["max_difference"], report["where"] = worst, where
        report["summary"] += f"; largest difference to {b}: {worst:.3g} {where}".rstrip()
    return report
