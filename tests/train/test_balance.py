from __future__ import annotations

import json

import pytest
import torch

from ling.model.ling import from_config
from ling.presets import preset
from ling.train.balance import load_imbalance, update_biases, updated_bias


def test_bias_update_equals_megatron(fixtures):
    for case in json.loads((fixtures / "training" / "bias_update.json").read_text()):
        for step in case["steps"]:
            rows = zip(
                step["bias_before"], step["tokens_per_expert"], step["bias_after"], strict=True
            )
            for before, counts, after in rows:
                got = updated_bias(
                    torch.tensor(before),
                    torch.tensor(counts),
                    case["update_rate"],
                    zero_mean=case["zero_mean"],
                )
                assert torch.allclose(got, torch.tensor(after), atol=1e-7)


@pytest.mark.parametrize("zero_mean", [True, False])
def test_busy_experts_go_down_and_idle_ones_up_by_one_step(zero_mean):
    bias, counts = torch.tensor([0.5, 0.0, -0.25, 0.0]), torch.tensor([9, 1, 1, 5])
    got = updated_bias(bias, counts, 0.1, zero_mean=zero_mean)
    change = torch.tensor([-0.1, 0.1, 0.1, -0.1])
    torch.testing.assert_close(got, bias + change)
    # One expert at the mean stays; with `zero_mean` three that move leave the sum alone.
    counts = torch.tensor([4, 9, 2, 1])
    signs = torch.tensor([0.0, -1.0, 1.0, 1.0])
    want = bias + 0.1 * (signs - signs.mean() if zero_mean else signs)
    torch.testing.assert_close(updated_bias(bias, counts, 0.1, zero_mean=zero_mean), want)


def test_every_layer_moves_in_place_by_its_own_counts():
    model = from_config(preset("ling-tiny"), seed=0)
    layers = {n: model.model.layers[n].mlp.gate.expert_bias for n in (1, 2, 3)}
    counts = {1: torch.arange(8), 3: torch.arange(8).flip(0)}
    update_biases(model, counts, 0.01, zero_mean=False)
    want = torch.tensor([0.01] * 4 + [-0.01] * 4)
    torch.testing.assert_close(layers[1], want)
    torch.testing.assert_close(layers[3], -want)
    assert not layers[2].any()


def test_imbalance_is_the_largest_load_over_the_mean():
    counts = {1: torch.tensor([8, 0, 0, 0]), 2: torch.tensor([3, 3, 3, 3])}
    assert load_imbalance(counts) == (4 + 1) / 2
    assert load_imbalance({}) == 1
