"""What a fine-tuning would do, before it does: data, steps, tokens, what is trained, memory."""

from __future__ import annotations

from pathlib import Path

from ..config.sft import SFTConfig
from .adapt import trained_table
from .chat_rows import ChatRows
from .device import choose_device
from .layout import chosen
from .memory import MemoryReport
from .parallel.group import ALONE
from .rows import Log
from .setup import model_config, open_rows


def dry_run(recipe: SFTConfig, out: Path, log: Log = print) -> SFTConfig:
    """Log what a run of `recipe` in `out` comes to, without its weights; returns it with its steps.

    The records are tokenised into `<out>/data`, where the run finds them.
    """
    laid_out = chosen(recipe, model_config, out, log, ALONE)
    assert isinstance(laid_out, SFTConfig)
    recipe = laid_out
    device, cfg = choose_device(recipe.train.device), model_config(recipe)
    rows = open_rows(recipe, cfg, out, log)
    assert isinstance(rows, ChatRows)
    rows.held_out()  # says where there is none
    log("\n".join(_steps(rows)))
    log("\n".join(trained_table(rows.recipe, rows.config)))
    MemoryReport(rows.recipe, device, ALONE).tell(rows.config, log)
    return rows.recipe


def _steps(rows: ChatRows) -> list[str]:
    """Steps and tokens of the whole run."""
    recipe, report = rows.recipe, rows.data.report
    train, length, lengths = recipe.train, recipe.data.seq_length, rows.data.parts["train"].lengths
    if rows.data.is_pairs:
        each, what = len(lengths) // 2, "pairs"
    else:
        each, what = rows.data.rows_per_epoch(), f"rows of {length:,} tokens"
    read = train.rows(train.steps)
    epochs = read / max(each, 1)
    tokens = float(lengths.sum(dtype="i8")) * epochs
    padding = "" if rows.data.is_pairs else f", {rows.data.padding:.1%} of them padding"
    return [
        f"steps: {train.steps:,} of {train.global_batch_size} {what}, {epochs:.2f} epochs of "
        f"{each:,}{padding}",
        f"tokens: {tokens:,.0f} in the run, {report['trained_share']:.1%} of them trained",
        f"learning rate: {recipe.optim.lr:g}, {recipe.optim.schedule}",
    ]
