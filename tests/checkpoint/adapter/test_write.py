"""What is written is read back: values, ranks and scales, with one tensor for each expert."""

from __future__ import annotations

import json

import pytest
import torch
from adapters import CFG, adapter_of

from ling.checkpoint.adapter.read import read_adapter
from ling.checkpoint.adapter.write import write_adapter
from ling.checkpoint.raw.safetensors import SafetensorsFile
from ling.errors import UsageError
from ling.model.adapter import Adapter, LowRank


def same(a, b):
    assert list(a.matrices) == list(b.matrices)
    for name, (left, right, scale) in a.matrices.items():
        other = b.matrices[name]
        assert scale == pytest.approx(other.scale, rel=1e-9)
        assert left.dtype == other.a.dtype
        assert torch.equal(left, other.a), name
        assert torch.equal(right, other.b), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rslora", [False, True])
def test_round_trip(tmp_path, rslora, dtype):
    adapter = adapter_of(rslora=rslora, dtype=dtype)
    write_adapter(tmp_path / "adapter", adapter, CFG, alpha=32, rslora=rslora, base="base")
    same(read_adapter(tmp_path / "adapter", CFG), adapter)


def test_scales_that_differ_within_a_kind_survive(tmp_path):
    adapter = adapter_of()
    name = "model.layers.2.mlp.experts.up_proj"
    a, b, scale = adapter.matrices[name]
    adapter.matrices[name] = LowRank(a[:, :1], b[:, :, :1], 3 * scale)
    write_adapter(tmp_path, adapter, CFG, alpha=32)
    same(read_adapter(tmp_path, CFG), adapter)


def test_each_expert_has_the_released_name(tmp_path):
    write_adapter(tmp_path, adapter_of(), CFG, alpha=32)
    entries = SafetensorsFile(tmp_path / "adapter_model.safetensors").entries
    last = CFG.num_experts - 1
    key = f"base_model.model.model.layers.1.mlp.experts.{last}.down_proj.lora_B.weight"
    assert entries[key].shape == (CFG.hidden_size, 2)


def test_configuration_names_modules_stacks_and_what_is_not_adapted(tmp_path):
    adapter = adapter_of(kinds=("attention", "experts"))
    write_adapter(tmp_path, adapter, CFG, alpha=32, base="../base", dropout=0.1)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../base"
    assert (config["r"], config["lora_alpha"]) == (2, 32)
    assert list(config["rank_pattern"].values()) == [4]
    assert config["lora_dropout"] == 0  # peft would refuse experts with dropout
    assert "gate_proj" in config["target_modules"]
    assert "model.layers.1.mlp.experts.gate_proj" in config["target_parameters"]
    assert "shared_experts" in config["exclude_modules"]


def test_dropout_is_told_where_peft_can_have_it(tmp_path):
    write_adapter(tmp_path, adapter_of(kinds=("attention",)), CFG, alpha=32, dropout=0.1)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["lora_dropout"] == 0.1
    assert config["target_parameters"] is None


def test_an_adapter_of_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no matrices"):
        write_adapter(tmp_path, Adapter({}), CFG, alpha=32)
