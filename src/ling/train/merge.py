"""`ling merge`: average checkpoints in place of a learning-rate decay (WSM)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..checkpoint.dcp.folder import DCPFolder
from ..checkpoint.dcp.parts import write_tensors
from ..checkpoint.run_folder import checkpoints, intact, refuse_adapters, step_of
from ..config.optim import OptimConfig
from ..config.recipe import PretrainConfig, TrainConfig
from ..errors import CheckpointError, UsageError
from ..files.atomic import atomic_folder, check_free
from .schedule import decay_between, merge_weights, shape_of, weights_of_decay


def merge(
    run: str | Path,
    out: str | Path,
    *,
    last: int | None = None,
    schedule: str = "mean",
    decay_steps: int | None = None,
    like: PretrainConfig | None = None,
    interval: int = 1,
) -> list[str]:
    """Merge the newest checkpoints of `run` into `out`, in float32; returns their names.

    The newest `last` are weighed by `schedule` over the intervals between them, or by the learning
    rates of the recipe `like`. With `decay_steps` instead of `last`, it is those that a decay by
    `schedule` over that many steps reaches back to. Only steps that `interval` divides count: a run
    that was stopped has saved others. Every model tensor is averaged, `expert_bias` included
    (docs/concepts/training.md#merge).
    """
    run, out = Path(run), Path(out)
    out = out.resolve() if out.is_symlink() else out
    check_free(out)
    if (last is None) == (decay_steps is None):
        raise UsageError("give either `--last`, how many checkpoints, or `--decay-steps`")
    if like is not None and (decay_steps is not None or schedule != "mean"):
        raise UsageError("`--like` has its own schedule: leave out `--schedule`, `--decay-steps`")
    saved = [p for p in checkpoints(run) if step_of(p) % interval == 0]
    if decay_steps is None:
        found = _newest(run, saved, last or 0)
    else:
        found = _reaching_back(run, saved, decay_steps)
    weights = _weights([step_of(p) for p in found], schedule, decay_steps, like)
    for folder in found:
        if not intact(folder):
            raise CheckpointError(f"{folder}: damaged, cannot be merged")
        refuse_adapters(folder)  # the mean of A and B is not that of their product
    total = weighed_sum(found, weights)
    with atomic_folder(out) as tmp:
        write_tensors(tmp, total)
        if (run / "tokenizer").is_dir():
            shutil.copytree(run / "tokenizer", tmp / "tokenizer")
        (tmp / "config.json").write_text((found[-1] / "config.json").read_text())
        names = [p.name for p in found]
        note = {"from": names, "schedule": schedule if like is None else "like", "weights": weights}
        (tmp / "merged.json").write_text(json.dumps(note) + "\n")
    return names


# ---- which, and how much of each ---------------------------------------------------------------


def _newest(run: Path, saved: list[Path], last: int) -> list[Path]:
    if last < 1 or len(saved) < last:
        raise UsageError(f"{run}: holds {len(saved)} checkpoints, asked for {last}")
    return saved[-last:]


def _reaching_back(run: Path, saved: list[Path], decay_steps: int) -> list[Path]:
    """The checkpoints from the last one before the decay on."""
    if not saved:
        raise UsageError(f"{run}: holds no checkpoints")
    begin = step_of(saved[-1]) - decay_steps
    before = [i for i, folder in enumerate(saved) if step_of(folder) <= begin]
    if decay_steps < 1 or not before:
        raise UsageError(
            f"{run}: a decay of {decay_steps} steps up to {saved[-1].name} begins at step {begin}, "
            f"the oldest checkpoint is {saved[0].name}; keep more (`checkpoint.keep_last`)"
        )
    return saved[before[-1] :]


def _weights(
    steps: Sequence[int], schedule: str, decay_steps: int | None, like: PretrainConfig | None
) -> list[float]:
    if like is not None:
        return weights_of_decay(decay_between(steps, like.optim, like.train))
    if decay_steps is None:
        return merge_weights(len(steps) - 1, schedule)
    shape = shape_of(schedule)
    optim = OptimConfig(lr=1.0, schedule="wsd", decay_steps=decay_steps, decay_shape=shape)
    return weights_of_decay(decay_between(steps, optim, TrainConfig(steps=steps[-1])))


def weighed_sum(folders: Sequence[Path], weights: Sequence[float]) -> dict[str, Tensor]:
    """The model tensors of all checkpoints, in float32."""
    total: dict[str, Tensor] = {}
    for folder, weight in zip(folders, weights, strict=True):
        checkpoint = DCPFolder(folder)
        for name in checkpoint.tensors:
            if name.startswith("model."):
                part = checkpoint.tensor(name).float() * weight
                total[name] = total[name] + part if name in total else part
        checkpoint.close()
    return total
