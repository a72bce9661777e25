"""A model written as a Hugging Face folder, and read back; damage in it is named."""

from __future__ import annotations

import json

import pytest

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.errors import CheckpointError, ShardIndexError
from ling.model.ling import from_config
from ling.model.names import tensor_specs
from ling.presets import preset


@pytest.fixture
def saved(tmp_path):
    model = from_config(preset("ling-tiny"), seed=0)
    save_model(model, model.config, tmp_path, dtype="float32", max_shard_bytes=200_000)
    return tmp_path, model


def test_weights_survive_disk_bit_for_bit_over_several_shards(saved):
    folder, model = saved
    assert len(list(folder.glob("*.safetensors"))) > 1
    again = load_model(folder).state_dict()
    assert all((again[k] == v).all() for k, v in model.state_dict().items())


def test_exported_names_and_dtypes_are_those_of_the_spec(saved):
    index = json.loads((saved[0] / "model.safetensors.index.json").read_text())
    specs = tensor_specs(saved[1].config)
    assert list(index["weight_map"]) == list(specs)
    assert specs["model.layers.1.mlp.gate.expert_bias"].float32
    assert "model.layers.3.eh_proj.weight" in specs


def test_truncated_shard_and_hostile_index_are_refused(saved):
    folder, _ = saved
    index = folder / "model.safetensors.index.json"
    good = index.read_text()
    index.write_text(good.replace("model-00001-of", "../model-00001-of", 1))
    with pytest.raises(ShardIndexError):
        load_model(folder)
    index.write_text(good)
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=shard.name):
        load_model(folder)


def test_wrong_shape_is_named(saved):
    raw = json.loads((saved[0] / "config.json").read_text())
    (saved[0] / "config.json").write_text(json.dumps({**raw, "intermediate_size": 64}))
    with pytest.raises(CheckpointError, match=r"gate_proj.weight.*expected"):
        load_model(saved[0])
