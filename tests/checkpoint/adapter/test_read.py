"""What an adapter's folder may hold: peft's stacks too, and nothing that is not two matrices."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from adapters import CFG, adapter_of, edit, refused
from safetensors.torch import load_file, save_file

from ling.checkpoint.adapter.read import read_adapter
from ling.checkpoint.adapter.write import write_adapter

STACK = "model.layers.1.mlp.experts"


@pytest.fixture
def folder(tmp_path):
    write_adapter(tmp_path, adapter_of(), CFG, alpha=32)
    return tmp_path


def nest(folder, matrices=("gate_proj", "up_proj", "down_proj")):
    """The experts of `folder` as peft stores them: flat stacks under nested wrappers."""
    adapter, held = adapter_of(), load_file(folder / "adapter_model.safetensors")
    flat = {name: t for name, t in held.items() if ".mlp.experts." not in name}
    for name, (a, b, _) in adapter.matrices.items():
        experts, _, matrix = name.rpartition(".")
        if not experts.endswith(".mlp.experts") or matrix not in matrices:
            continue
        depth = len(matrices) - 1 - matrices.index(matrix)
        key = f"base_model.model.{experts}" + ".base_layer" * depth
        flat[f"{key}.lora_A.weight"] = a.flatten(0, 1)
        flat[f"{key}.lora_B.weight"] = b.permute(1, 2, 0).flatten(1).contiguous()
    save_file(flat, folder / "adapter_model.safetensors")
    return adapter


def test_nested_stacks_of_peft(folder):
    adapter = nest(folder)
    edit(folder, target_parameters=[f"experts.{m}" for m in ("gate_proj", "up_proj", "down_proj")])
    for name, (a, b, scale) in read_adapter(folder, CFG).matrices.items():
        assert torch.equal(a, adapter.matrices[name].a)
        assert torch.equal(b, adapter.matrices[name].b)
        assert scale == adapter.matrices[name].scale


def test_nested_stacks_of_some_matrices(folder):
    adapter = nest(folder, ("gate_proj", "down_proj"))
    edit(folder, target_parameters=["experts.gate_proj", "experts.down_proj"])
    read = read_adapter(folder, CFG).matrices
    assert f"{STACK}.up_proj" not in read
    for matrix in ("gate_proj", "down_proj"):
        name = f"{STACK}.{matrix}"
        assert torch.equal(read[name].b, adapter.matrices[name].b)


def test_nested_stacks_need_their_names(folder):
    nest(folder)
    edit(folder, target_parameters=["experts.gate_proj"])
    refused(folder, "3 stacks of experts are nested here, `target_parameters` names 1")


def test_float16_comes_as_float32(folder):
    name = "base_model.model.model.layers.1.attention.dense.lora_A.weight"
    held = load_file(folder / "adapter_model.safetensors")[name].half()
    edit(folder, {name: held})
    read = read_adapter(folder, CFG).matrices["model.layers.1.attention.dense"].a
    assert torch.equal(read, held.float())


def test_mtp_layers_are_left_out(folder, caplog):
    layer = CFG.num_hidden_layers
    key = f"base_model.model.model.layers.{layer}.attention.dense.lora_A.weight"
    edit(folder, {key: torch.ones(4, CFG.q_size)})
    with caplog.at_level(logging.WARNING, "ling"):
        read = read_adapter(folder, CFG)
    assert set(read.matrices) == set(adapter_of().matrices)
    assert "1 tensors of MTP layers" in caplog.text


FIRST = "model.layers.0.attention.query_key_value"


def test_the_first_tensor_of_another_model_is_named(folder):
    wide = CFG.replace(hidden_size=128, num_attention_heads=CFG.num_attention_heads * 2)
    refused(folder, f"tensor `base_model.model.{FIRST}.lora_A.weight` has shape [4, 64]", wide)


def test_fewer_layers_or_experts_than_the_adapter(folder):
    refused(folder, "layers.1.", CFG.replace(num_hidden_layers=1, num_nextn_predict_layers=0))
    refused(folder, "the model has 4 experts", CFG.replace(num_experts=4, n_group=1, topk_group=1))


def test_more_experts_than_the_adapter(folder):
    refused(
        folder,
        f"experts.{CFG.num_experts}.gate_proj.lora_A.weight` is missing",
        CFG.replace(num_experts=2 * CFG.num_experts),
    )


def test_another_rank(folder):
    edit(folder, r=8, rank_pattern={})
    refused(folder, f"{FIRST}.lora_A.weight` has shape [4, 64], expected [8, 64]")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("base_model.model.lm_head.lora_A.weight", "names no matrix"),
        ("base_model.model.model.layers.1.mlp.gate.lora_A.weight", "names no matrix"),
        ("base_model.model.model.word_embeddings.lora_embedding_A", "embeddings"),
        (f"base_model.model.{FIRST}.lora_magnitude_vector.weight", "DoRA"),
        (f"base_model.model.{FIRST}.base_layer.bias", "biases"),
        ("base_model.model.lm_head.modules_to_save.weight", "whole modules"),
        ("anything", "no A or B"),
    ],
)
def test_tensors_without_a_place_are_named(folder, key, text):
    edit(folder, {key: torch.ones(4, 64)})
    refused(folder, text)


def test_missing_and_broken_values(folder):
    key = f"base_model.model.{FIRST}.lora_B.weight"
    held = load_file(folder / "adapter_model.safetensors")[key]
    edit(folder, {key: held.fill_(float("nan"))})
    refused(folder, "NaN or infinity")
    edit(folder, {key: None})
    refused(folder, f"`{key}` is missing")
    edit(folder, {key: held.int()})
    refused(folder, "dtype int32")


def test_experts_with_different_scales_are_refused(folder):
    edit(folder, alpha_pattern={f"{STACK}.3.gate_proj": 5})
    refused(folder, "another rank or scale")


def test_pickles_gguf_and_other_folders_are_refused(tmp_path):
    refused(tmp_path / "none", "no such adapter")
    refused(tmp_path, "not an adapter")
    (tmp_path / "adapter.gguf").write_bytes(b"GGUF")
    refused(tmp_path, "as GGUF")
    refused(tmp_path / "adapter.gguf", "as GGUF")
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8})
    )
    refused(tmp_path, "has no tensors")
    (tmp_path / "adapter_model.safetensors").mkdir()
    refused(tmp_path, "has no tensors")
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    refused(tmp_path, "pickle")
