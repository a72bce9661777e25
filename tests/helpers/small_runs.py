"""Small training runs: token files, a recipe that reads them, and a signal at a given step."""

from __future__ import annotations

import signal

from runs import write_tokens

from ling.config.optim import OptimConfig
from ling.config.recipe import (
    CheckpointConfig,
    DataConfig,
    PretrainConfig,
    TrainConfig,
)


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
