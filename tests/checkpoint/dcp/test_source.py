"""Our own checkpoints and other people's DCP folders, read under the released names."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

from ling.checkpoint.dcp.folder import DCPFolder
from ling.checkpoint.load import load_model
from ling.checkpoint.run_folder import checkpoints
from ling.config.recipe import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)
from ling.convert.plan import convert
from ling.data.indexed import IndexedWriter
from ling.train import loop
from ling.train.log import read_metrics


@pytest.fixture
def tied_recipe(tmp_path):
    with IndexedWriter(tmp_path / "text", np.uint16) as writer:
        for document in np.split(np.random.RandomState(0).randint(0, 300, 4000), 40):
            writer.add_document(document.tolist())

    def make(model="ling-tiny", steps=4):
        return PretrainConfig(
            model=str(model),
            model_overrides={"tie_word_embeddings": True},
            data=DataConfig(prefix=[str(tmp_path / "text")], seq_length=32),
            train=TrainConfig(
                steps=steps, global_batch_size=2, micro_batch_size=2, dtype="float32", threads=1
            ),
            optim=OptimConfig(lr=1e-3, schedule="constant"),
            checkpoint=CheckpointConfig(interval_steps=2, keep_last=0),
        )

    return make


def losses(run):
    return [r["loss"] for r in read_metrics(run / "metrics.jsonl")]


def test_a_tied_model_trains_resumes_and_starts_another_run(tied_recipe, tmp_path):
    run = tmp_path / "run"
    assert loop.run(tied_recipe(), run, print) == 0
    first = losses(run)
    assert all(math.isfinite(loss) for loss in first)
    step, last = checkpoints(run)
    assert not [key for key in DCPFolder(step).tensors if "lm_head" in key]

    shutil.rmtree(last)
    assert loop.run(tied_recipe(), run, print) == 0
    assert losses(run)[-2:] == first[-2:]

    convert(step, tmp_path / "hf", to="float32")
    embedding = DCPFolder(step).tensor("model.model.word_embeddings.weight")
    assert torch.equal(load_model(tmp_path / "hf").lm_head.weight, embedding)
    assert loop.run(tied_recipe(tmp_path / "hf", steps=1), tmp_path / "next", print) == 0
    assert math.isfinite(losses(tmp_path / "next")[0])
