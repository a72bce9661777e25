"""Checkpoints of a run: torch DCP folders, written atomically, verified before resume.

A checkpoint holds `.metadata` and `*.distcp` (model, optimizer moments, RNG state), `config.json`
of the model, `state.json` (step and data position) and `manifest.json` (SHA-256 of each file).
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from ..errors import CheckpointError, InputError, RunError
from ..files import atomic_folder, hash_tree, read_json
from ..model.dcp import read_tensors
from ..model.ling import Ling

MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d+)")


def state_tensors(model: Ling, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Model state under `model.`, optimizer moments under `optimizer.<moment>.`, the RNG state."""
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        moments = optimizer.state[p]
        if not moments:  # before the first step
            moments.update(
                step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)
            )
        for key in ("step", "exp_avg", "exp_avg_sq"):
            state[f"optimizer.{key}.{name}"] = moments[key]
    state["rng"] = torch.get_rng_state()
    return state


def save(
    folder: Path, model: Ling, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write `folder` so that it appears complete or not at all."""
    with atomic_folder(folder) as tmp:
        write_tensors(tmp, state_tensors(model, optimizer))
        (tmp / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
        (tmp / "state.json").write_text(json.dumps(progress) + "\n")
        (tmp / MANIFEST).write_text(json.dumps(hash_tree(tmp), indent=1) + "\n")


def write_tensors(folder: Path, state: dict[str, Tensor]) -> None:
    """Write tensors as a torch distributed checkpoint; raises `RunError`, as for a full disk."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that no process group is used
            dcp.save(state, checkpoint_id=folder, no_dist=True)
    except CheckpointException as err:  # a BaseException around whatever went wrong
        name = folder.name.removesuffix(".tmp")
        raise RunError(f"could not save checkpoint {name}: {_reason(err)}") from None


def _reason(err: CheckpointException) -> str:
    """The operating system's words when they are in the chain of causes, else torch's."""
    last: BaseException = next(e for e, _ in err.failures.values())
    cause: BaseException | None = last
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        last, cause = cause, cause.__cause__ or cause.__context__
    return f"{last} (is the disk full?)"


def load(folder: Path, model: Ling, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore model, optimizer and RNG in place; returns the saved progress."""
    state = state_tensors(model, optimizer)
    read_tensors(folder, state)
    torch.set_rng_state(state["rng"])
    return read_json(folder / "state.json")


def checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [
        (int(m[1]), p)
        for p in (run / "checkpoints").glob("step-*")
        if (m := _STEP.fullmatch(p.name))
    ]
    return [p for _, p in sorted(found) if (p / MANIFEST).is_file()]


def intact(folder: Path) -> bool:
    """Whether every file has the hash that was recorded when it was written."""
    try:
        recorded = read_json(folder / MANIFEST)
    except InputError:
        return False
    now = hash_tree(folder)
    now.pop(MANIFEST, None)
    return recorded == now


def newest(run: Path, log: Any) -> Path | None:
    """The newest intact checkpoint; a damaged newer one is named and passed over.

    Raises `CheckpointError` when there are checkpoints but none is intact.
    """
    found = checkpoints(run)
    for folder in reversed(found):
        if intact(folder):
            return folder
        log(f"warning: checkpoint {folder.name} is damaged, looking for an older one")
    if found:
        raise CheckpointError(f"{run}: no checkpoint is intact; remove them to start anew")
    return None


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` checkpoints (0 keeps all) and unfinished ones."""
    folder = run / "checkpoints"
    for tmp in folder.glob("step-*.tmp"):
        shutil.rmtree(tmp, ignore_errors=True)
    if keep_last:
        for old in checkpoints(run)[:-keep_last]:
            shutil.rmtree(old, ignore_errors=True)
