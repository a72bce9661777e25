"""Linear layers and experts with adapters, in the network that they belong to."""

from __future__ import annotations

import pytest
import torch

from ling.config.optim import OptimConfig
from ling.config.sft import LoRAConfig
from ling.model.adapter import adapter_targets
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.lora.adapter import adapter_of
from ling.train.lora.modules import LoRAExperts, LoRALinear
from ling.train.optim import build_optimizer, check_strides
from ling.train.recompute import recompute

LORA = LoRAConfig(rank=4, expert_rank=2, alpha=8.0)
TOKENS = torch.arange(40) % 384


def hidden(network):
    return network.ling(TOKENS, torch.arange(40), DenseAttend([0, 15, 40]))


def test_results_are_those_of_merged_weights(made):
    network = made(grown=True)
    merged = from_config(preset("ling-tiny"), seed=0)
    state = merged.state_dict()
    for name, (a, b, scale) in adapter_of(network.ling, LORA).matrices.items():
        key = name if name in state else f"{name}.weight"
        state[key] += scale * (b.double() @ a.double()).float()
    want = merged(TOKENS, torch.arange(40), DenseAttend([0, 15, 40]))
    assert (hidden(network) - want).norm() <= 1e-5 * want.norm()
    assert (hidden(made()) - want).norm() > 1e-2 * want.norm()


def test_gradients_exist_for_adapters_only(made):
    network = made(grown=True)
    hidden(network).square().sum().backward()
    with_gradient = {name for name, p in network.ling.named_parameters() if p.grad is not None}
    main = range(network.ling.config.num_hidden_layers)
    trained = {name for name, p in network.ling.named_parameters() if p.requires_grad}
    assert with_gradient == trained
    assert all("lora_" in name and int(name.split(".")[2]) in main for name in trained)
    assert len(trained) == 2 * len(adapter_targets(network.ling.config))


@pytest.mark.parametrize("what", ["moe", "full"])
def test_recomputation_changes_no_bit_of_a_gradient(made, what):
    found = []
    for setting in ("none", what):
        network = made(grown=True)
        recompute(network, setting)
        hidden(network).square().sum().backward()
        found.append([p.grad for p in network.parameters() if p.requires_grad])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_adapters_are_float32_and_computed_in_the_dtype_of_the_activations(made):
    network = made(grown=True, dtype=torch.bfloat16)
    out = hidden(network)
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    for p in network.parameters():
        if p.requires_grad:
            assert (p.dtype, p.grad.dtype) == (torch.float32, torch.float32)
            assert p.grad.stride() == p.stride()


def test_parameters_keep_their_names(made):
    plain = dict(from_config(preset("ling-tiny"), seed=0).named_parameters())
    network = made()
    own = dict(network.ling.named_parameters())
    assert set(plain) <= set(own)
    assert {name for name in own if name not in plain} == {
        f"{name}{'_' if target.experts else '.'}lora_{which}"
        for name, target in adapter_targets(network.ling.config).items()
        for which in "AB"
    }
    for name, p in plain.items():
        assert torch.equal(own[name], p)


def test_moving_a_network_moves_what_is_frozen_too(made):
    network = made()
    linear = network.ling.model.layers[0].attention.dense
    experts = network.ling.model.layers[1].mlp.experts
    assert isinstance(linear, LoRALinear)
    assert isinstance(experts, LoRAExperts)
    network.double()
    assert linear.base.weight is linear.weight
    assert experts.base.gate_proj.dtype == torch.float64


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_either_optimizer_moves_adapters_alone(made, name):
    network = made(grown=True)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    optimizer = build_optimizer(network.ling, OptimConfig(name=name, weight_decay=0.0))
    hidden(network).square().sum().backward()
    check_strides(network.parameters())
    optimizer.step()
    for n, p in network.named_parameters():
        assert torch.equal(p, before[n]) != p.requires_grad, n
    assert set(optimizer.state) == {p for p in network.parameters() if p.requires_grad}
