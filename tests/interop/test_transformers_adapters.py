"""Adapters in our layout on the transformers class with peft. Skipped where peft is missing."""

from __future__ import annotations

import warnings

import pytest
import torch
from adapters import adapter_of
from safetensors.torch import load_file, save_file
from tiny_ling import load

import ling  # noqa: F401  registers the class
from ling.checkpoint.adapter.read import read_adapter
from ling.checkpoint.adapter.write import write_adapter
from ling.model.adapter import KINDS

peft = pytest.importorskip("peft")
IDS = torch.arange(3, 40)[None]
KIND_SETS = [KINDS, ("experts",), ("attention", "experts"), ("attention",)]
TENSORS = "adapter_model.safetensors"


def write(folder, path, **options):
    cfg = load(folder).config.ling()
    adapter = adapter_of(cfg, **options)
    rslora = options.get("rslora", False)
    write_adapter(path, adapter, cfg, alpha=32, rslora=rslora, base=str(folder))
    return adapter, cfg


@torch.no_grad()
def applied(folder, *adapters):
    """Logits of the model with the products added to its weights."""
    model = load(folder)
    own = dict(model.named_parameters())
    for adapter in adapters:
        for name, (a, b, scale) in adapter.matrices.items():
            own.get(name, own.get(f"{name}.weight")).add_(scale * (b @ a))
    return logits(model)


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


def same(read, adapter):
    assert list(read.matrices) == list(adapter.matrices)
    for name, matrix in adapter.matrices.items():
        assert torch.equal(read.matrices[name].a, matrix.a)
        assert torch.equal(read.matrices[name].b, matrix.b)
        assert read.matrices[name].scale == pytest.approx(matrix.scale)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("kinds", KIND_SETS)
def test_peft_reads_ours_and_what_it_writes_is_read(folder, tmp_path, kinds, rslora):
    adapter, cfg = write(folder, tmp_path / "ours", kinds=kinds, rslora=rslora)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(load(folder), tmp_path / "ours")
    # Of keys and patterns that fit nothing; modules of other classes have targets that ours lacks.
    assert not [w for w in said if "keys" in str(w.message) and "adapter" in str(w.message)]
    assert torch.allclose(logits(model), applied(folder, adapter), atol=1e-4)
    assert not torch.allclose(logits(model), logits(load(folder)), atol=1e-1)
    model.save_pretrained(tmp_path / "theirs")
    same(read_adapter(tmp_path / "theirs", cfg), adapter)


def test_several_adapters_are_told_apart(folder, tmp_path):
    first, _ = write(folder, tmp_path / "first", kinds=("experts",))
    second, _ = write(folder, tmp_path / "second", kinds=("experts",), seed=2)
    model = peft.PeftModel.from_pretrained(load(folder), tmp_path / "first", "first")
    model.load_adapter(tmp_path / "second", "second")
    assert torch.allclose(logits(model), applied(folder, first), atol=1e-4)
    model.set_adapter("second")
    assert torch.allclose(logits(model), applied(folder, second), atol=1e-4)


@pytest.mark.parametrize("kinds", [KINDS, ("attention",)])
def test_load_adapter_of_transformers(folder, tmp_path, kinds):
    adapter, _ = write(folder, tmp_path / "ours", kinds=kinds)
    peft.PeftModel.from_pretrained(load(folder), tmp_path / "ours").save_pretrained(tmp_path / "p")
    for path in ("ours", "p"):
        model = load(folder)
        model.load_adapter(str(tmp_path / path))
        assert torch.allclose(logits(model), applied(folder, adapter), atol=1e-4)


def test_a_stack_that_is_not_whole_is_reported(folder, tmp_path):
    write(folder, tmp_path / "ours", kinds=("experts",))
    tensors = load_file(tmp_path / "ours" / TENSORS)
    del tensors["base_model.model.model.layers.1.mlp.experts.3.gate_proj.lora_A.weight"]
    save_file(tensors, tmp_path / "ours" / TENSORS)
    with pytest.warns(UserWarning, match="missing adapter keys"):
        peft.PeftModel.from_pretrained(load(folder), tmp_path / "ours")


def test_what_peft_trains_over_all_layers_is_read_without_the_mtp_layer(folder, tmp_path):
    modules = ["query_key_value", "dense", "gate_proj", "up_proj", "down_proj"]
    parameters = ["experts.gate_proj", "experts.up_proj", "experts.down_proj"]
    lora = peft.LoraConfig(
        r=4, target_modules=modules, target_parameters=parameters, init_lora_weights=False
    )
    model = peft.get_peft_model(load(folder), lora)
    model.save_pretrained(tmp_path)
    cfg = load(folder).config.ling()
    assert torch.allclose(logits(model), applied(folder, read_adapter(tmp_path, cfg)), atol=1e-4)
