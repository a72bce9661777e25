"""The weights of a new network, made a module at a time."""

from __future__ import annotations

import pytest
import torch

from ling.model.ling import Ling, from_config
from ling.presets import preset
from ling.train.network import build_network, init_parts
from ling.train.optim import build_optimizer

CPU = torch.device("cpu")
TINY = preset("ling-tiny")


@pytest.mark.parametrize("tied", [False, True])
def test_parts_have_the_values_that_one_process_makes(tied):
    cfg = TINY.replace(tie_word_embeddings=tied)
    with torch.device("meta"):
        model = Ling(cfg)
    model.to_empty(device="cpu")
    init_parts(model, torch.Generator().manual_seed(3))
    want = from_config(cfg, seed=3).state_dict()
    got = model.state_dict()
    assert list(got) == list(want)
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


def test_the_optimizer_moves_the_parameters_that_sharding_leaves(recipe):
    seen = []

    def replace(network):
        seen.extend(p.is_meta for p in network.parameters())
        norm = network.ling.model.norm
        norm.weight = torch.nn.Parameter(torch.empty_like(norm.weight))
        return network

    network = build_network(recipe(), TINY, CPU, replace)
    assert seen
    assert all(seen)
    optimizer = build_optimizer(network.ling, recipe().optim)
    moved = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in network.ling.parameters())
    alone = build_network(recipe(), TINY, CPU, lambda network: network).ling.state_dict()
    for name, tensor in network.ling.state_dict().items():
        assert torch.equal(tensor, alone[name]), name
