"""`ling merge`: average checkpoints in place of a learning-rate decay (WSM)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError, UsageError
from ..files import atomic_folder
from ..model.dcp import DCPFolder
from . import checkpoint
from .optim import merge_weights


def merge(run: str | Path, out: str | Path, *, last: int, schedule: str = "mean") -> list[str]:
    """Merge the newest `last` checkpoints of `run` into `out`, in float32; returns their names.

    Every model tensor is averaged, `expert_bias` included (spec: training §6).
    """
    run, out = Path(run), Path(out)
    if out.exists():
        raise UsageError(f"{out}: exists; give another name")
    found = checkpoint.checkpoints(run)[-last:] if last > 0 else []
    if last < 1 or len(found) < last:
        raise UsageError(
            f"{run}: holds {len(checkpoint.checkpoints(run))} checkpoints, asked for {last}"
        )
    for folder in found:
        if not checkpoint.intact(folder):
            raise CheckpointError(f"{folder}: damaged, cannot be merged")
    total: dict[str, Tensor] = {}
    for folder, weight in zip(found, merge_weights(last - 1, schedule), strict=True):
        held = DCPFolder(folder)
        for name in held.tensors:
            if name.startswith("model."):
                part = held.tensor(name).float() * weight
                total[name] = total[name] + part if name in total else part
        held.close()
    with atomic_folder(out) as tmp:
        checkpoint.write_tensors(tmp, total)
        if (run / "tokenizer").is_dir():
            shutil.copytree(run / "tokenizer", tmp / "tokenizer")
        (tmp / "config.json").write_text((found[-1] / "config.json").read_text())
        names = [p.name for p in found]
        (tmp / "merged.json").write_text(json.dumps({"from": names, "schedule": schedule}) + "\n")
    return names
