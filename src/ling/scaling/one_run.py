"""One run of a sweep: trained in this process, then a row of the results."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from ..config.recipe import PretrainConfig
from ..data.tokenizer import Tokenizer
from ..model.size import parameter_counts
from ..train.heldout import rows_in_order
from ..train.log import each_row
from ..train.loop import run as train
from ..train.starts import read_starts
from ..train.step import TooManySkipped
from .laws import activation_ratio, granularity
from .planned import Planned, Prefixes, run_folder
from .results import Row
from .sweep_folder import add_result, results

# Of the steps, the last this many are the training loss.
_LAST_SHARE = 0.02


def train_and_record(
    planned: Planned,
    data: Prefixes,
    out: Path,
    log: Callable[[str], None],
    *,
    keep: bool = False,
) -> int:
    """Train a run, or continue it, and append its row; returns the exit code of the trainer.

    A run that diverged is done, too. Its checkpoint is removed unless it is to `keep`.
    """
    folder = run_folder(out, planned.name)
    if planned.name in results(out):
        log(f"{planned.name}: its row is in the results")
        return 0
    recipe = planned.recipe(data)
    try:
        code, status = train(recipe, folder, log), "done"
    except TooManySkipped as err:
        log(f"{planned.name}: diverged: {err}")
        code, status = 0, "diverged"
    if code:
        return code
    add_result(out, row_of(planned, recipe, folder, status))
    if not keep:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return 0


def row_of(planned: Planned, recipe: PretrainConfig, folder: Path, status: str) -> Row:
    """What came of a run, from the log in its folder.

    One whose loss ends above that of its first step diverged, whatever `status` says.
    """
    curve = _Curve(folder / "metrics.jsonl")
    if not curve.is_below_start:
        status = "diverged"
    spec, config, starts = planned.spec, planned.config, read_starts(folder)
    counts, flops = parameter_counts(config), planned.token_flops
    last, tokens = starts[-1] if starts else {}, curve.tokens or planned.tokens
    return Row(
        run=planned.name,
        family=spec.family,
        size=spec.size,
        activation_ratio=activation_ratio(config),
        granularity=granularity(config),
        seed=spec.seed,
        params_total=counts["total"],
        params_active=counts["active"],
        params_active_no_head=counts["active_non_embedding"],
        flops_per_token=flops.without_head,
        flops_per_token_with_head=flops.with_head,
        tokens=tokens,
        flops=float(tokens * flops.without_head),
        flops_with_head=float(tokens * flops.with_head),
        target_flops=spec.flops,
        lr=planned.lr,
        lr_factor=spec.lr_factor,
        batch_tokens=planned.batch_tokens,
        steps=planned.steps,
        loss=curve.held_out,
        valid_tokens=scored_tokens(recipe),
        train_loss=curve.last,
        status=status,
        held_out=spec.held_out,
        seconds=curve.seconds,
        commit=last.get("commit") or "",
        machine=f"{last.get('cpu') or 'unknown processor'}, {recipe.train.threads} thread(s)",
    )


class _Curve:
    """The losses of a run, and the seconds of its steps."""

    def __init__(self, path: Path) -> None:
        losses, self.seconds, self.tokens = [], 0.0, 0
        self.held_out: float | None = None
        for row in each_row(path):
            losses.append(row["loss"])
            self.seconds += (row["tokens"] - self.tokens) / row["tokens_per_s"]
            self.tokens, self.held_out = row["tokens"], row.get("valid_loss")
        self.first = losses[0] if losses else math.nan
        self.last = fmean(losses[-max(1, round(_LAST_SHARE * len(losses))) :]) if losses else None

    @property
    def is_below_start(self) -> bool:
        """Whether both losses of the end are numbers below the first one."""
        return all(loss is not None and loss < self.first for loss in (self.held_out, self.last))


def scored_tokens(recipe: PretrainConfig) -> int:
    """Tokens that the held-out loss of a run is a mean over."""
    assert recipe.data.tokenizer
    eod = Tokenizer.from_folder(recipe.data.tokenizer).eod_token_id
    rows = rows_in_order(recipe.data.valid_prefix[0], recipe.data, recipe.train.eval_rows, eod)
    return round(sum(float(rows[n].loss_mask.sum()) for n in range(len(rows))))
