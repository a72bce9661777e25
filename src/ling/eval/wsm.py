"""Merging against decaying, from one run at a constant learning rate (WSM, arXiv 2507.17634).

Its last checkpoints are merged over several windows and intervals; from some of the same
checkpoints the run is continued with a rate that decays over as many steps, on the same rows. All
end after the same tokens, and are compared by their held-out loss: every other row of what was held
out chooses among merges and decays (`chosen`), the rest measures, so that the best of many is not
better by the luck of the rows that it was chosen on.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.load import load_model
from ..checkpoint.run_folder import checkpoints, step_folder, step_of
from ..config.optim import DecayShape
from ..config.recipe import CheckpointConfig, PretrainConfig
from ..config.recipe_file import load_recipe
from ..errors import UsageError
from ..files.atomic import make_folder
from ..model.ling import Ling
from ..train.forward import LingForTraining
from ..train.heldout import loss_of_rows, rows_in_order
from ..train.log import each_row
from ..train.loop import run as train
from ..train.merge import weighed_sum
from ..train.schedule import merge_weights

Log = Callable[[str], None]

SCHEDULES = ("mean", "linear", "one-minus-sqrt")
COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
INTERVALS = (1, 2, 4)


@dataclass(frozen=True)
class Merge:
    """The checkpoints of one merge, the oldest first, and their weights."""

    folders: tuple[Path, ...]
    schedule: str

    @property
    def weights(self) -> list[float]:
        """Of the folders."""
        return merge_weights(len(self.folders) - 1, self.schedule)

    def as_dict(self) -> dict[str, Any]:
        """Which, how far apart, and how much of each."""
        steps = [step_of(folder) for folder in self.folders]
        return {
            "schedule": self.schedule,
            "count": len(steps),
            "interval": steps[1] - steps[0],
            "window": steps[-1] - steps[0],
            "weights": self.weights,
        }


def merges(run: Path) -> Iterator[Merge]:
    """Of the newest checkpoints, as far back as they are evenly apart; raises `UsageError` where
    there are no two."""
    tail = even_tail(run)
    for apart in INTERVALS:
        spaced = tail[::-1][::apart][::-1]
        for count in (n for n in COUNTS if n <= len(spaced)):
            for schedule in SCHEDULES:
                if count > 2 or schedule == "mean":  # others give the oldest no weight
                    yield Merge(tuple(spaced[-count:]), schedule)


def even_tail(run: Path) -> list[Path]:
    """The newest checkpoints of a run, as far back as they are evenly apart; those that a stop left
    between are passed over."""
    saved = {step_of(folder): folder for folder in checkpoints(run)}
    if len(saved) < 2:
        raise UsageError(f"{run}: holds {len(saved)} checkpoints, merging needs two or more")
    before, end = sorted(saved)[-2:]
    usual = load_recipe(run / "config.yaml").checkpoint.interval_steps
    apart = usual if end - usual in saved else end - before
    tail = [saved[end]]
    while (earlier := end - len(tail) * apart) in saved:
        tail.append(saved[earlier])
    return tail[::-1]


# ---- held-out loss -----------------------------------------------------------------------------


class HeldOutLoss:
    """Mean loss on `rows` rows of each held-out token file, weighed as the run's mixture, or alike;
    `UsageError` where a file has less than two rows."""

    def __init__(self, recipe: PretrainConfig, rows: int, eod: int | None) -> None:
        self.isolate = recipe.data.isolate_documents and eod is not None
        self.prefixes, self.weights = held_out_prefixes(recipe)
        self.samples = [rows_in_order(prefix, recipe.data, rows, eod) for prefix in self.prefixes]
        for prefix, samples in zip(self.prefixes, self.samples, strict=True):
            if len(samples) < 2:
                raise UsageError(
                    f"{prefix}: {len(samples)} held-out rows are compared, two or more are needed"
                )
        self.dtype = getattr(torch, recipe.train.dtype)

    def __call__(self, network: Ling) -> dict[str, Any]:
        """Of one model: the mean, by the folders of the prefixes, and the mean that chooses."""
        network.compute_dtype = self.dtype
        trained = LingForTraining(network)
        choosing, found = self._losses(trained, 0), self._losses(trained, 1)
        names = (Path(prefix).parent.name for prefix in self.prefixes)
        return {
            "loss": self._mean(found),
            "by_part": dict(zip(names, found, strict=True)),
            "choosing_loss": self._mean(choosing),
        }

    def _losses(self, trained: LingForTraining, first: int) -> list[float]:
        """By prefix, of every other row from `first` on."""
        halves = ([rows[i] for i in range(first, len(rows), 2)] for rows in self.samples)
        return [loss_of_rows(trained, half, isolate_documents=self.isolate).loss for half in halves]

    def _mean(self, losses: list[float]) -> float:
        return sum(w * loss for w, loss in zip(self.weights, losses, strict=True))


def chosen(compared: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of merges or decays the best, by rows on which its `loss` was not measured."""
    return min(compared, key=lambda row: row["choosing_loss"])


def held_out_prefixes(recipe: PretrainConfig) -> tuple[list[str], list[float]]:
    """Held-out prefixes and their shares: those that `ling data prepare` left beside each prefix
    that is trained on, or `data.valid_prefix`."""
    data = recipe.data
    beside = [str(Path(p).with_name("valid_text_document")) for p in data.prefix]
    if beside and all(Path(f"{p}.idx").is_file() for p in beside):
        weights = data.weights or [1.0] * len(beside)
    elif data.valid_prefix:
        beside, weights = data.valid_prefix, [1.0] * len(data.valid_prefix)
    else:
        raise UsageError(
            "no held-out text: the run has no `data.valid_prefix`, and there is no "
            "`valid_text_document` beside each of `data.prefix`"
        )
    return beside, [w / sum(weights) for w in weights]


@torch.no_grad()
def put_weights(network: Ling, tensors: dict[str, Tensor]) -> None:
    """Write merged tensors, named as in a checkpoint, into a module; every one of it is there."""
    own = network.state_dict()
    for name in own:
        own[name].copy_(tensors[f"model.{name}"])


# ---- decays ------------------------------------------------------------------------------------


def decay(
    run: Path,
    start: Path,
    out: Path,
    recipe: PretrainConfig,
    shape: DecayShape,
    lr_min: float,
    log: Log,
) -> Path:
    """Continue `run` from its checkpoint `start` to the run's end, on the same rows, at a rate that
    decays over all these steps; returns the last checkpoint. A run folder in `out` goes on.

    Raises `KeyboardInterrupt` after a signal, once the run has saved.
    """
    end = step_of(checkpoints(run)[-1])
    begin = step_of(start)
    final = step_folder(out, end)
    if not out.exists():
        _copy(run, start, out)
    optim = dataclasses.replace(
        recipe.optim, schedule="wsd", decay_steps=end - begin, decay_shape=shape, lr_min=lr_min
    )
    changed = dataclasses.replace(
        recipe,
        optim=optim,
        train=dataclasses.replace(recipe.train, steps=end),
        checkpoint=CheckpointConfig(interval_steps=end, keep_last=2),
    )
    if train(changed, out, log):
        log(f"{out}: stopped; the same command continues")
        raise KeyboardInterrupt
    return final


def _copy(run: Path, start: Path, out: Path) -> None:
    """A run folder as it was when `start` was its newest checkpoint."""
    target = step_folder(make_folder(out), step_of(start))
    for folder in ("tokenizer", "data"):
        if (run / folder).is_dir():
            shutil.copytree(run / folder, out / folder)
    shutil.copytree(start, target)
    shutil.copy(run / "config.yaml", out / "config.yaml")


def same_rows(run: Path, branch: Path, step: int) -> bool | None:
    """Whether the first step of a branch had the loss that the run had there, bit for bit: the same
    weights saw the same rows. None where the run's log has no such step."""
    losses = [
        next(
            (row["loss"] for row in each_row(folder / "metrics.jsonl") if row["step"] == step), None
        )
        for folder in (run, branch)
    ]
    return None if None in losses else losses[0] == losses[1]


# ---- both --------------------------------------------------------------------------------------


def compare(
    run: Path,
    out: Path,
    *,
    decay_steps: Sequence[int] = (),
    shape: DecayShape = "one-minus-sqrt",
    lr_min: float = 0.0,
    rows: int = 16,
    log: Log = print,
) -> dict[str, Any]:
    """Held-out loss of the last checkpoint, of merges, and of decays over `decay_steps` steps.

    By default one decay is as long as the largest window of a merge, and one half of it. Raises
    `UsageError` for a run that is not at a constant rate, or where no checkpoint is that far back.
    """
    recipe: PretrainConfig = load_recipe(run / "config.yaml")
    if recipe.optim.schedule != "constant":
        raise UsageError(
            f"{run}: `optim.schedule` is `{recipe.optim.schedule}`, merging in place of a decay "
            "needs a run at a `constant` rate"
        )
    last = checkpoints(run)[-1] if checkpoints(run) else None
    planned = list(merges(run))
    assert last is not None
    starts = _starts(run, decay_steps)
    network = load_model(last, "float32")
    score = HeldOutLoss(recipe, rows, network.config.eos_token_id)
    report: dict[str, Any] = {
        "run": run.name,
        "step": step_of(last),
        "lr": recipe.optim.lr,
        "lr_min": lr_min,
        "shape": shape,
        "rows": rows,
        "last": score(network),
        "merges": [],
        "decays": [],
    }
    log(f"last checkpoint: {report['last']['loss']:.4f}")
    for merge in planned:
        put_weights(network, weighed_sum(merge.folders, merge.weights))
        row = {**merge.as_dict(), **score(network)}
        report["merges"].append(row)
        what = f"{row['count']} checkpoints, {row['window']} steps, {row['schedule']}"
        log(f"{what}: {row['loss']:.4f}")
    for start in starts:
        begin = step_of(start)
        branch = out / f"decay-{begin}-{shape}"
        final = decay(run, start, branch, recipe, shape, lr_min, log)
        row = {
            "window": step_of(last) - begin,
            "same_rows": same_rows(run, branch, begin + 1),
            **score(load_model(final, "float32")),
        }
        report["decays"].append(row)
        log(f"decay over {row['window']} steps: {row['loss']:.4f}")
    return report


def _starts(run: Path, decay_steps: Sequence[int]) -> list[Path]:
    """The checkpoints that are this many steps before the last."""
    saved, tail = {step_of(p): p for p in checkpoints(run)}, even_tail(run)
    if not decay_steps:
        return [tail[0], tail[len(tail) // 2]] if len(tail) > 2 else [tail[0]]
    end = max(saved)
    missing = [n for n in decay_steps if end - n not in saved or n < 1]
    if missing:
        there = ", ".join(str(end - step) for step in saved if step != end)
        raise UsageError(
            f"{run}: no checkpoint {missing[0]} steps before the last; there are {there}"
        )
    return [saved[end - n] for n in decay_steps]
