"""Merged weights are those of the model with its adapter, in every format."""

from __future__ import annotations

import contextlib

import pytest
import torch
from adapters import CFG, adapter_of

from ling.checkpoint.adapter.write import write_adapter
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.checkpoint.open import open_source
from ling.convert.plan import convert
from ling.convert.verify import verify
from ling.errors import CheckpointError, UsageError
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.model.names import module_tensor, tensor_specs


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A base in several formats and an adapter beside it."""
    room = tmp_path_factory.mktemp("merge")
    (room / "base").mkdir()
    save_model(from_config(CFG, seed=1), CFG, room / "base")
    for to in ("fp8", "int4", "dcp", "gguf"):
        convert(room / "base", room / to, to=to, **({"gguf_type": "q8_0"} if to == "gguf" else {}))
    write_adapter(room / "adapter", adapter_of(), CFG, alpha=32, base=str(room / "base"))
    return room


def applied(folder):
    """The model's own tensors, and what the adapter's definition adds to them in float64."""
    model, adapter = load_model(folder, "float32"), adapter_of()
    state = {name: value.double() for name, value in model.state_dict().items()}
    for name, (a, b, scale) in adapter.matrices.items():
        key = name if name in state else f"{name}.weight"
        state[key] += scale * (b.double() @ a.double())
    return state


@pytest.mark.parametrize("base", ["base", "dcp", "fp8"])
def test_merged_is_applied(room, tmp_path, base):
    convert(room / base, tmp_path / "out", to="float32", merge=room / "adapter", verify=True)
    merged, want = load_model(tmp_path / "out").state_dict(), applied(room / base)
    before = load_model(room / base, "float32").state_dict()
    for name in adapter_of().matrices:
        key = name if name in merged else f"{name}.weight"
        assert torch.allclose(merged[key].double(), want[key], rtol=0, atol=1e-5), name
        assert not torch.allclose(merged[key], before[key], atol=1e-3)


@torch.no_grad()
def logits(model):
    ids = torch.arange(3, 40)
    return model(ids, torch.arange(len(ids)), DenseAttend([0, len(ids)]))


def test_logits_of_merged_are_those_of_applied(room, tmp_path):
    convert(room / "base", tmp_path / "out", to="float32", merge=room / "adapter")
    own, want = load_model(room / "base", "float32"), applied(room / "base")
    before = logits(own)
    own.load_state_dict(want)
    assert torch.allclose(logits(load_model(tmp_path / "out")), logits(own), atol=1e-5)
    assert not torch.allclose(before, logits(own), atol=1e-2)


def path(folder, to):
    return folder / "model.gguf" if to == "gguf" else folder


@pytest.mark.parametrize("to", ["bf16", "fp8", "int4", "dcp", "megatron", "gguf"])
def test_every_format_takes_merged_weights(room, tmp_path, to):
    """To 32 bits and from there, or at once: the same bits."""
    convert(room / "base", tmp_path / "whole", to="float32", merge=room / "adapter")
    convert(tmp_path / "whole", tmp_path / "two", to=to)
    convert(room / "base", tmp_path / "one", to=to, merge=room / "adapter", verify=True)
    with contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(contextlib.closing(open_source(path(tmp_path / name, to))))
            for name in ("one", "two")
        )
        for name in tensor_specs(one.config):
            assert torch.equal(one.tensor(name), two.tensor(name)), name


@pytest.mark.parametrize("base", ["int4", "gguf"])
def test_integer_bases_are_refused_with_the_command(room, tmp_path, base):
    to = "--to int4" if base == "int4" else "gguf"
    with pytest.raises(UsageError, match=f"convert {room / 'base'} OUT --merge") as raised:
        convert(path(room / base, base), tmp_path / "out", merge=room / "adapter")
    assert to in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("base", ["{room}/int4", "a\0b", "a\x1b[31m\nb", ""])
def test_the_base_that_an_adapter_names_may_be_no_help(room, tmp_path, base):
    base = base.format(room=room)
    write_adapter(tmp_path / "adapter", adapter_of(), CFG, alpha=32, base=base)
    with pytest.raises(UsageError, match="convert ORIGINAL OUT --merge"):
        convert(room / "int4", tmp_path / "out", merge=tmp_path / "adapter")


def test_an_adapter_of_another_model_is_refused(room, tmp_path):
    other = CFG.replace(num_hidden_layers=5)
    write_adapter(tmp_path / "adapter", adapter_of(other), other, alpha=32)
    with pytest.raises(CheckpointError, match=r"layers\.4\."):
        convert(room / "base", tmp_path / "out", merge=tmp_path / "adapter")


def test_verify_sees_a_merged_folder_differ_from_its_base(room, tmp_path):
    convert(room / "base", tmp_path / "out", to="float32", merge=room / "adapter")
    with pytest.raises(CheckpointError, match="differs"):
        verify(room / "base", tmp_path / "out")


def test_tensors_that_are_not_changed_are_the_base_s(room, tmp_path):
    convert(room / "base", tmp_path / "out", to="float32", merge=room / "adapter")
    a, b = load_model(room / "base").state_dict(), load_model(tmp_path / "out").state_dict()
    for name in ("model.layers.1.mlp.gate.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(module_tensor(a, name), module_tensor(b, name))
