"""Which matrices can have an adapter, and its scale."""

from __future__ import annotations

import pytest
import torch

from ling.model.adapter import KINDS, LowRank, adapter_targets, scale_of
from ling.model.ling import Ling
from ling.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_targets_are_the_matrices_of_the_network(name):
    cfg = preset(name)
    with torch.device("meta"):
        own = dict(Ling(cfg).named_parameters())
    targets = adapter_targets(cfg)
    for key, target in targets.items():
        shape = (target.out_features, target.in_features)
        stack = (target.experts,) if target.experts else ()
        assert own[key if target.experts else f"{key}.weight"].shape == (*stack, *shape)
    # All of the main layers but router and norms.
    matrices = {
        n for n, p in own.items()
        if n.startswith("model.layers.") and int(n.split(".")[2]) < cfg.num_hidden_layers
        and p.ndim > 1 and ".gate." not in n
    }  # fmt: skip
    assert {key if t.experts else f"{key}.weight" for key, t in targets.items()} == matrices


def test_kinds_of_a_model_without_shared_experts():
    kinds = {t.kind for t in adapter_targets(preset("ling-tiny")).values()}
    fewer = {
        t.kind for t in adapter_targets(preset("ling-tiny").replace(num_shared_experts=0)).values()
    }
    assert kinds == set(KINDS)
    assert fewer == kinds - {"shared"}


def test_scale_and_rank():
    assert scale_of(16, 32.0, rslora=False) == 2.0
    assert scale_of(16, 32.0, rslora=True) == 8.0
    assert LowRank(torch.zeros(8, 3, 64), torch.zeros(8, 32, 3), 1.0).rank == 3
