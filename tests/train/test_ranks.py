"""What ranks measure: router bias, memory, the slowest."""

from __future__ import annotations

import pytest
import torch

from ling.model.ling import from_config
from ling.presets import preset
from ling.train.clock import Times
from ling.train.parallel.group import ALONE
from ling.train.ranks import Ranks, RouterBias

CPU = torch.device("cpu")


@pytest.fixture
def model():
    return from_config(preset("ling-tiny"), seed=0)


def bias_of(model, layer):
    return model.get_buffer(f"model.layers.{layer}.mlp.gate.expert_bias")


def test_bias_is_the_largest_of_a_layer_and_its_change_the_mean(model):
    watch = RouterBias(model)
    first, *others = watch.layers
    bias = bias_of(model, first)
    bias[0], bias[1] = -0.5, 0.25
    size, moved = watch.measure()[: len(watch.layers)], watch.measure()[len(watch.layers) :]
    assert size == [0.5] + [0.0] * len(others)
    assert moved == [0.0] * len(watch.layers)  # since the call before
    bias += 0.125
    assert watch.measure()[len(watch.layers)] == 0.125


def test_a_process_alone_logs_memory_and_data_but_no_communication(model):
    row = Ranks(ALONE, CPU, model, "here").measure(Times(2, 4.0, 0.0, 1.0))
    assert row["data_share"] == 0.25
    assert not {"communication_share", "slowest"} & set(row)
    assert {k: v for k, v in row["ranks"].items() if k.endswith("_s")} == {
        "step_s": [2.0], "own_s": [2.0], "communication_s": [0.0], "data_s": [0.5],
    }  # fmt: skip
    assert row["ranks"]["resident_bytes"][0] > 10e6
    assert "cuda_peak_bytes" not in row["ranks"]
    assert list(row["router_bias"]) == list(row["router_bias_change"])


def test_the_slowest_is_the_rank_that_the_others_wait_for(model, monkeypatch):
    measured = Ranks(ALONE, CPU, model, "b")
    measured.hosts = ["a", "b", "c"]

    def gathered(own):
        others = [[2.0, 0.5, 1.5, 0.0, 7, 0], [2.0, 1.0, 1.0, 0.2, 9, 0]]
        half = len(own[6:]) // 2
        stage = [0.3] * half + [0.1] * half
        return [others[0] + own[6:], own, others[1] + stage]

    monkeypatch.setattr(measured, "_gathered", gathered)
    row = measured.measure(Times(1, 2.0, 0.25, 0.1))
    assert row["slowest"] == {"rank": 1, "host": "b", "own_s": 1.75, "median_own_s": 1.0}
    assert row["communication_share"] == pytest.approx(2.75 / 6)
    assert row["data_share"] == pytest.approx(0.05)
    assert row["ranks"]["resident_bytes"][::2] == [7, 9]
    assert set(row["router_bias"].values()) == {0.3}  # the layers of another stage
    assert set(row["router_bias_change"].values()) == {0.1}
