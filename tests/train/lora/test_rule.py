"""Which matrices get an adapter, and their first values."""

from __future__ import annotations

import math

import pytest
import torch

from ling.config.sft import LoRAConfig
from ling.errors import UsageError
from ling.model.adapter import KINDS, adapter_targets
from ling.model.ling import from_config
from ling.model.moe import Router
from ling.presets import preset
from ling.train.lora.adapter import adapter_of
from ling.train.lora.rule import add_adapters


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone(made, kind):
    lora = LoRAConfig(targets=[kind], rank=3, expert_rank=2)
    network = made(lora)
    found = adapter_of(network.ling, lora).matrices
    targets = adapter_targets(network.ling.config)
    assert set(found) == {name for name, target in targets.items() if target.kind == kind}
    for name, (a, b, _) in found.items():
        target, r = targets[name], 2 if kind == "experts" else 3
        stack = (target.experts,) if target.experts else ()
        assert a.shape == (*stack, r, target.in_features)
        assert b.shape == (*stack, target.out_features, r)


def test_a_kind_that_no_matrix_is_of_is_named():
    cfg = preset("ling-tiny").replace(num_shared_experts=0)
    with pytest.raises(UsageError, match=r"kind `shared`; there are: attention, dense, experts"):
        add_adapters(from_config(cfg, seed=0), LoRAConfig())


def test_first_values_depend_on_the_seed_and_the_matrix_alone(made):
    everything, experts = LoRAConfig(), LoRAConfig(targets=["experts"])
    first = adapter_of(made(everything).ling, everything).matrices
    again = adapter_of(made(experts).ling, experts).matrices
    other = adapter_of(made(experts, seed=1).ling, experts).matrices
    values = set()
    for name, low_rank in again.items():
        assert torch.equal(low_rank.a, first[name].a)
        assert not torch.equal(low_rank.a, other[name].a)
        values.add(float(low_rank.a.flatten()[0]))
    assert len(values) == len(again)
    for a, b, _ in first.values():
        bound = 1 / math.sqrt(a.shape[-1])
        assert bound * 0.9 < a.abs().max() <= bound
        assert not b.any()


@pytest.mark.parametrize(
    ("rslora", "dense", "experts"), [(False, 32 / 16, 32 / 4), (True, 32 / 4, 32 / 2)]
)
def test_scale_is_by_the_rank_of_the_kind(made, rslora, dense, experts):
    lora = LoRAConfig(rslora=rslora)
    network = made(lora)
    layer = network.ling.model.layers[1]
    assert layer.attention.dense.scale == dense
    assert layer.mlp.experts.multiply.scale == experts


def test_what_is_frozen_is_stored_as_it_is_computed_but_for_the_router(made):
    network = made(dtype=torch.bfloat16)
    for module in network.modules():
        for name, p in module.named_parameters(recurse=False):
            is_frozen = not p.requires_grad
            if is_frozen and p.ndim > 1 and not isinstance(module, Router):
                assert p.dtype == torch.bfloat16, name
            else:
                assert p.dtype == torch.float32, name


def test_storing_as_computed_changes_no_bit(made):
    from ling.model.attention import DenseAttend

    network, plain = made(dtype=torch.bfloat16), from_config(preset("ling-tiny"), seed=0)
    plain.compute_dtype = torch.bfloat16
    inputs = torch.arange(40), torch.arange(40), DenseAttend([0, 40])
    got, want = network.ling(*inputs), plain(*inputs)
    assert torch.equal(got, want)
    assert torch.equal(network.ling.logits(got), plain.logits(want))


def test_dropout_that_would_do_nothing_is_refused():
    lora = LoRAConfig(targets=["experts"], dropout=0.1)
    with pytest.raises(UsageError, match="routed experts have no dropout"):
        add_adapters(from_config(preset("ling-tiny"), seed=0), lora)
