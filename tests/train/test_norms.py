"""Norms of gradients by part."""

from __future__ import annotations

import pytest
import torch

from ling.model.ling import Ling
from ling.presets import preset
from ling.train.norms import PARTS, gradient_norms, parts_of


@pytest.fixture(scope="module")
def named():
    model = Ling(preset("ling-tiny"))
    random = torch.Generator().manual_seed(1)
    return {n: torch.randn(p.shape, generator=random) for n, p in model.named_parameters()}


def test_every_parameter_has_a_part_and_every_part_a_parameter(named):
    found = dict(zip(named, parts_of(named), strict=True))
    assert set(found.values()) == set(PARTS)
    assert found["model.word_embeddings.weight"] == "embedding"
    assert found["model.norm.weight"] == "norms"
    assert found["model.layers.1.attention.query_layernorm.weight"] == "norms"
    assert found["model.layers.1.attention.dense.weight"] == "attention"
    assert found["model.layers.1.mlp.gate.weight"] == "router"
    assert found["model.layers.1.mlp.experts.gate_proj"] == "experts"
    assert found["model.layers.0.mlp.gate_proj.weight"] == "dense_mlp"
    layer = f"model.layers.{preset('ling-tiny').num_hidden_layers}"
    assert found[f"{layer}.mlp.experts.up_proj"] == found[f"{layer}.enorm.weight"] == "mtp"


def test_the_total_is_torchs_and_parts_add_up_to_it(named):
    total, *parts = gradient_norms(named)
    assert torch.equal(total, torch.nn.utils.get_total_norm(named.values()))
    assert float(torch.stack(parts).square().sum().sqrt()) == pytest.approx(float(total), rel=1e-6)
    head = float(named["lm_head.weight"].norm())
    assert float(parts[PARTS.index("head")]) == pytest.approx(head, rel=1e-6)


def test_a_rank_without_gradients_counts_nothing():
    assert gradient_norms({}).tolist() == [0.0] * (1 + len(PARTS))
