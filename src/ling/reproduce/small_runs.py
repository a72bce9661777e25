"""Small training runs, as claims need them: text prepared once, and runs that continue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.optim import OptimConfig
from ..config.recipe import CheckpointConfig, DataConfig, PretrainConfig, TrainConfig
from ..data.prepare import prepare
from ..data.prepared import Prepared
from ..train.log import read_metrics
from ..train.loop import run
from .claim import Context


def text(context: Context) -> Prepared:
    """Python's own library as token files, for the vocabulary of the model."""
    vocab = context["overrides"].get("vocab_size", 4096)
    limit = context["corpus_bytes"]
    return prepare(
        "stdlib",
        context.shared / f"stdlib-{vocab}-{limit or 'whole'}",
        vocab_size=vocab,
        max_bytes=limit,
        log=context.log,
    )


def recipe(
    context: Context,
    *,
    train: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    checkpoint: dict[str, Any] | None = None,
) -> PretrainConfig:
    """A recipe of the scale's settings (those of `SMALL` and `steps`), with changes."""
    data = text(context)
    rows, steps = context["rows"], context["steps"]
    return PretrainConfig(
        model=context["model"],
        model_overrides=dict(context["overrides"]),
        data=DataConfig(
            prefix=[str(data.train_prefix)],
            valid_prefix=[str(data.valid_prefix)],
            tokenizer=str(data.tokenizer_folder),
            seq_length=context["seq_length"],
        ),
        train=TrainConfig(
            **{
                "steps": steps,
                "global_batch_size": rows,
                "micro_batch_size": rows,
                "dtype": context["dtype"],
                "mtp_loss_weight": 0.3,
                "seed": 42 + context.seed,
                "eval_rows": 64,
                **(train or {}),
            }
        ),
        optim=OptimConfig(
            **{
                "lr": context["lr"],
                "lr_min": context["lr"] / 20,
                "warmup_steps": max(steps // 20, 5),
                **(optim or {}),
            }
        ),
        checkpoint=CheckpointConfig(
            **{"interval_steps": max(steps // 4, 1), "keep_last": 1, **(checkpoint or {})}
        ),
    )


def train(context: Context, name: str, made: PretrainConfig) -> list[dict[str, Any]]:
    """Train into `context.work / name`, or continue there; returns the rows of the log.

    Raises `KeyboardInterrupt` after a signal, once the run has saved: the next start continues it.
    """
    folder = context.work / name
    context.log(f"training {name}: {made.train.steps} steps")
    if run(made, folder, lambda line: None):
        raise KeyboardInterrupt
    return rows_of(folder)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The log of a run."""
    return read_metrics(folder / "metrics.jsonl")
