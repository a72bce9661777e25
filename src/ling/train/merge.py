"""`ling merge`: average checkpoints in place of a learning-rate decay (WSM)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch import Tensor

from ..checkpoint.dcp.folder import DCPFolder
from ..checkpoint.dcp.parts import write_tensors
from ..checkpoint.run_folder import checkpoints, intact
from ..errors import CheckpointError, UsageError
from ..files.atomic import atomic_folder, check_free
from .optim import merge_weights


def merge(run: str | Path, out: str | Path, *, last: int, schedule: str = "mean") -> list[str]:
    """Merge the newest `last` checkpoints of `run` into `out`, in float32; returns their names.

    Every model tensor is averaged, `expert_bias` included (docs/concepts/training.md#merge).
    """
    run, out = Path(run), Path(out)
    out = out.resolve() if out.is_symlink() else out
    check_free(out)
    found = checkpoints(run)[-last:] if last > 0 else []
    if last < 1 or len(found) < last:
        raise UsageError(f"{run}: holds {len(checkpoints(run))} checkpoints, asked for {last}")
    for folder in found:
        if not intact(folder):
            raise CheckpointError(f"{folder}: damaged, cannot be merged")
    total: dict[str, Tensor] = {}
    for folder, weight in zip(found, merge_weights(last - 1, schedule), strict=True):
        checkpoint = DCPFolder(folder)
        for name in checkpoint.tensors:
            if name.startswith("model."):
                part = checkpoint.tensor(name).float() * weight
                total[name] = total[name] + part if name in total else part
        checkpoint.close()
    with atomic_folder(out) as tmp:
        write_tensors(tmp, total)
        if (run / "tokenizer").is_dir():
            shutil.copytree(run / "tokenizer", tmp / "tokenizer")
        (tmp / "config.json").write_text((found[-1] / "config.json").read_text())
        names = [p.name for p in found]
        (tmp / "merged.json").write_text(json.dumps({"from": names, "schedule": schedule}) + "\n")
    return names
