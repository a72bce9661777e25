"""Small training runs: token files, a recipe that reads them, and a signal at a given step."""

from __future__ import annotations

import signal

import numpy as np

from ling.config.recipe import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)
from ling.data.indexed import IndexedWriter
from ling.train.log import read_metrics


def write_tokens(prefix, top=300, tokens=4000, seed=0):
    ids = np.random.RandomState(seed).randint(0, top, tokens)
    with IndexedWriter(prefix, np.uint16) as writer:
        for document in np.split(ids, 40):
            writer.add_document(document.tolist())


def recipes(tmp_path):
    """A function that makes a recipe on the token files `text` in `tmp_path`, which it writes."""
    write_tokens(tmp_path / "text")

    def make(
        steps=6,
        interval=2,
        model="ling-tiny",
        prefix="text",
        batch=2,
        seed=42,
        train=None,
        optim=None,
        **data,
    ):
        return PretrainConfig(
            model=model,
            data=DataConfig(prefix=[str(tmp_path / prefix)], **{"seq_length": 32, **data}),
            train=TrainConfig(
                **{
                    "steps": steps,
                    "global_batch_size": batch,
                    "micro_batch_size": 2,
                    "dtype": "float32",
                    "threads": 1,
                    "seed": seed,
                    **(train or {}),
                }
            ),
            optim=OptimConfig(lr=1e-3, **(optim or {})),
            checkpoint=CheckpointConfig(interval_steps=interval, keep_last=2),
        )

    return make


def quiet(text):
    pass


def stop_after(count):
    """In place of `_catch_signals`: as if SIGTERM came during the `count`-th step."""

    def catch(self):
        step, left = self._step, iter(range(count))

        def counted():
            if next(left) == count - 1:
                self.caught = signal.SIGTERM
            return step()

        self._step = counted
        return lambda: None

    return catch


def losses(out):
    return [(r["step"], r["loss"], r["grad_norm"]) for r in read_metrics(out / "metrics.jsonl")]
