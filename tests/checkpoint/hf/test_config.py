"""What is given in place of a model folder is named for what it is, with what to do."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.checkpoint.open import open_source
from ling.cli.main import main
from ling.data.tokenizer import Tokenizer
from ling.errors import CheckpointError, LingError
from ling.model.ling import from_config
from ling.presets import preset

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a21" * 10 + b"\nsize 99\n"
)
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>"
FAKES = {"a Git LFS pointer": POINTER, "a web page": PAGE, "Entry not found": b"Entry not found"}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    model = from_config(preset("ling-tiny"), seed=0)
    save_model(model, model.config, path, dtype="bfloat16")
    return path


@pytest.mark.parametrize("what", FAKES)
@pytest.mark.parametrize(
    "name", ["config.json", "model-00001-of-00001.safetensors", INDEX, "tokenizer.json"]
)
def test_a_file_that_a_download_replaced_is_named_as_what_it_is(folder, name, what):
    (folder / name).write_bytes(FAKES[what])
    with pytest.raises(CheckpointError) as err:
        open_source(folder)
    assert name in str(err.value)
    assert what.lower() in str(err.value).lower()
    assert "\n" not in str(err.value)


@pytest.mark.parametrize("what", FAKES)
def test_so_is_a_gguf_file_and_a_tokenizer_alone(tmp_path, what):
    (tmp_path / "model.gguf").write_bytes(FAKES[what])
    with pytest.raises(LingError, match=f"(?i){what}"):
        open_source(tmp_path / "model.gguf")
    (tmp_path / "tokenizer.json").write_bytes(FAKES[what])
    with pytest.raises(LingError, match=f"(?i){what}"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("with_config", [False, True])
def test_an_adapter_is_named_with_its_model(folder, tmp_path, with_config, capsys):
    path = tmp_path / "lora"
    path.mkdir()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (path / "adapter_config.json").write_text(json.dumps(adapter))
    save_file({"x": torch.zeros(2)}, path / "adapter_model.safetensors")
    if with_config:
        shutil.copy(folder / "config.json", path)
    for command in ("convert", "verify", "generate", "inspect"):
        rest = {"convert": [str(tmp_path / "out")], "generate": ["--prompt", "text"]}.get(
            command, []
        )
        assert main([command, str(path), *rest]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "a LoRA adapter for `org/base`, not a model" in said


@pytest.mark.parametrize(
    ("config", "tool"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"compression_config": {"format": "pack-quantized"}}, "compressed-tensors"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
        ({"quantization_config": {"quant_method": "newest"}}, "newest"),
    ],
)
def test_other_quantised_folders_are_refused_by_name_with_what_to_do(folder, config, tool):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | config))
    with pytest.raises(CheckpointError, match=rf"quantised by `{tool}.*ling convert MODEL OUT"):
        open_source(folder)


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("quantize_config.json", "GPTQ"),
        ("quant_config.json", "AWQ"),
        ("hf_quant_config.json", "ModelOpt"),
    ],
)
def test_so_are_those_that_say_it_in_a_file_of_their_own(folder, name, tool):
    (folder / name).write_text("{}")
    with pytest.raises(CheckpointError, match=f"{name}: weights quantised by .*{tool}"):
        open_source(folder)


def test_an_index_of_shards_that_are_gone_is_left_aside(folder, caplog):
    before = load_model(folder).state_dict()
    shard = next(folder.glob("*.safetensors"))
    shard.rename(folder / "model.safetensors")
    with caplog.at_level(logging.WARNING, "ling"):
        after = load_model(folder).state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert f"names {shard.name}, which is not here" in caplog.text
    tensors = load_file(folder / "model.safetensors")
    tensors.popitem()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="is missing"):
        load_model(folder)


def test_a_file_of_weights_is_not_a_folder(folder):
    with pytest.raises(CheckpointError, match="give the folder that it is in"):
        open_source(next(folder.glob("*.safetensors")))


def test_shards_without_an_index_are_named(folder):
    (folder / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"`model-00001-of-00001\.safetensors` alone"):
        open_source(folder)
