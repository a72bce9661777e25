from __future__ import annotations

import pytest
from runs import write_tokens

from ling.config.optim import OptimConfig
from ling.config.recipe import (
    CheckpointConfig,
    DataConfig,
    PretrainConfig,
    TrainConfig,
)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """All of them."""


@pytest.fixture
def recipe(tmp_path):
    write_tokens(tmp_path / "text")

    def make(steps=6, interval=2, model="ling-tiny", prefix="text", batch=2, seed=42, **data):
        return PretrainConfig(
            model=model,
            data=DataConfig(prefix=[str(tmp_path / prefix)], **{"seq_length": 32, **data}),
            train=TrainConfig(
                steps=steps,
                global_batch_size=batch,
                micro_batch_size=2,
                dtype="float32",
                threads=1,
                seed=seed,
            ),
            optim=OptimConfig(lr=1e-3),
            checkpoint=CheckpointConfig(interval_steps=interval, keep_last=2),
        )

    return make
