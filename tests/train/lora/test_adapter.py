"""The adapter of a network: out, in, merged, off."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ling.config.sft import LoRAConfig
from ling.errors import UsageError
from ling.model.adapter import Adapter
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.lora.adapter import adapter_of, adapter_off, merge, put

LORA = LoRAConfig(rank=4, expert_rank=2, alpha=8.0)
INPUTS = torch.arange(40) % 384, torch.arange(40), DenseAttend([0, 15, 40])
EXPERTS = "model.layers.1.mlp.experts.up_proj"


def test_an_adapter_that_was_taken_out_can_be_put_in(made):
    trained, other = made(grown=True), made()
    adapter = adapter_of(trained.ling, LORA)
    put(other.ling, adapter)
    assert torch.equal(other.ling(*INPUTS), trained.ling(*INPUTS))
    with torch.no_grad():
        other.ling.model.layers[0].attention.dense.lora_B.zero_()
    assert adapter.matrices["model.layers.0.attention.dense"].b.any()


def changed(adapter, name, **values):
    low_rank = adapter.matrices[name]._replace(**values)
    return Adapter(adapter.matrices | {name: low_rank})


def test_the_first_difference_of_an_adapter_is_named(made):
    network = made()
    adapter = adapter_of(network.ling, LORA)
    wider = changed(adapter, EXPERTS, a=torch.zeros(8, 3, 64))
    with pytest.raises(
        UsageError, match=rf"`{EXPERTS}` .* lora_A of shape \[8, 3, 64\].*expert_ra"
    ):
        put(network.ling, wider)
    with pytest.raises(UsageError, match=rf"`{EXPERTS}` .* scaled by 0.5, .* scales by 4"):
        put(network.ling, changed(adapter, EXPERTS, scale=0.5))
    fewer = {name: low_rank for name, low_rank in adapter.matrices.items() if name != EXPERTS}
    with pytest.raises(UsageError, match=f"the recipe trains `{EXPERTS}`"):
        put(network.ling, Adapter(fewer))
    with pytest.raises(UsageError, match=r"which this model has not"):
        put(network.ling, Adapter({"model.layers.9.attention.dense": adapter.matrices[EXPERTS]}))
    only = made(dataclasses.replace(LORA, targets=["attention"]))
    with pytest.raises(UsageError, match=r"the adapter has `model.layers.0.mlp.gate_proj`"):
        put(only.ling, adapter)


def test_merged_equals_applied(made):
    network = made(grown=True)
    want = network.ling(*INPUTS)
    merge(network.ling)
    plain = from_config(preset("ling-tiny"), seed=0)
    plain.load_state_dict(network.ling.state_dict())  # the names of a model without adapters
    for ling in (network.ling, plain):
        got = ling(*INPUTS)
        assert (got - want).norm() <= 1e-5 * want.norm()
    assert type(network.ling.model.layers[1].mlp.experts) is type(plain.model.layers[1].mlp.experts)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_switched_off_it_is_the_base_to_the_bit(made, dtype):
    network, base = made(grown=True, dtype=dtype), from_config(preset("ling-tiny"), seed=0)
    base.compute_dtype = dtype
    on, want = network.ling(*INPUTS), base(*INPUTS)
    with adapter_off(network):
        assert torch.equal(network.ling(*INPUTS), want)
    assert torch.equal(network.ling(*INPUTS), on)
    assert not torch.equal(on, want)
