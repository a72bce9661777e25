"""Our own checkpoints and other people's DCP folders, read under the released names."""

from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from ling.checkpoint.dcp.folder import DCPFolder
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.checkpoint.run_folder import checkpoints
from ling.config.optim import OptimConfig
from ling.config.recipe import (
    CheckpointConfig,
    DataConfig,
    PretrainConfig,
    TrainConfig,
)
from ling.convert.plan import convert
from ling.data.indexed import IndexedWriter
from ling.errors import UsageError
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop
from ling.train.log import read_metrics
from ling.train.merge import merge


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

    (tmp_path / "merged").mkdir()  # as a docker volume is
    merge(run, tmp_path / "merged", last=2)
    assert load_model(tmp_path / "merged").config.tie_word_embeddings
    with pytest.raises(UsageError, match="exists"):
        merge(run, tmp_path / "merged", last=2)

    convert(step, tmp_path / "hf", to="float32")
    embedding = DCPFolder(step).tensor("model.model.word_embeddings.weight")
    assert torch.equal(load_model(tmp_path / "hf").lm_head.weight, embedding)
    assert loop.run(tied_recipe(tmp_path / "hf", steps=1), tmp_path / "next", print) == 0
    assert math.isfinite(losses(tmp_path / "next")[0])


@pytest.fixture
def hf(tmp_path):
    model = from_config(preset("ling-tiny"), seed=0)
    (tmp_path / "hf").mkdir()
    save_model(model, model.config, tmp_path / "hf", dtype="bfloat16")
    return tmp_path / "hf"


@pytest.mark.parametrize(
    "name",
    [
        "{}",
        "model.{}",
        "_orig_mod.{}",
        "state_dict.model._orig_mod.{}",
        "app.model._fsdp_wrapped_module.{}",
    ],
)
def test_other_trainers_checkpoints_with_released_names_are_read(name, hf, tmp_path, tensors):
    expected = tensors(hf)
    state = {name.format(key): value for key, value in expected.items()}
    state |= {f"optim.exp_avg.{key}": torch.zeros(2) for key in expected}
    wrapped = "model.layers.1._orig_mod.attention.dense.weight"
    state[name.format(wrapped)] = state.pop(name.format(wrapped.replace("_orig_mod.", "")))
    folder = tmp_path / "dcp"
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    shutil.copy(hf / "config.json", folder)
    convert(folder, tmp_path / "back")
    found = tensors(tmp_path / "back")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_pretraining_starts_from_a_checkpoint_of_any_kind(tied_recipe, hf, tmp_path):
    convert(hf, tmp_path / "int8", to="int8")
    first = {}
    for kind, folder in (("hf", hf), ("dcp", tmp_path / "dcp"), ("int8", tmp_path / "int8")):
        if kind == "dcp":
            convert(hf, folder, to="dcp")
        recipe = dataclasses.replace(tied_recipe(folder, steps=1), model_overrides={})
        assert loop.run(recipe, tmp_path / f"run-{kind}", print) == 0
        first[kind] = losses(tmp_path / f"run-{kind}")[0]
    assert first["hf"] == first["dcp"]
    assert abs(first["hf"] - first["int8"]) < 0.01
    assert (
        loop.run(
            dataclasses.replace(tied_recipe(tmp_path / "run-hf", steps=1), model_overrides={}),
            tmp_path / "again",
            print,
        )
        == 0
    )
