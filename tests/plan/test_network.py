"""Bytes that ranks send against counts by hand."""

from __future__ import annotations

import pytest

from ling.config.parallel import ParallelConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.plan.constants import ASSUMED
from ling.plan.gpus import GPUS
from ling.plan.network import Traffic, traffic
from ling.plan.shape import shape_of
from ling.presets import preset

NANO, H100 = preset("ling-nano"), GPUS["h100-80g"]


def sent(layout, rows=16, **train):
    recipe = PretrainConfig(
        model="ling-nano",
        data=DataConfig(prefix=["x"], seq_length=512),
        train=TrainConfig(global_batch_size=rows, micro_batch_size=2, **train),
        parallel=ParallelConfig(**layout),
    )
    return {t.name: t for t in traffic(shape_of(NANO, 512), recipe, H100)}


def test_a_process_alone_sends_nothing():
    assert sent({}) == {}


def test_weights_are_gathered_twice_and_gradients_added_up_once_a_micro_batch():
    found, shape = sent({"dp_shard": 2}), shape_of(NANO, 512)
    experts = sum(layer.size(experts=True) for layer in shape.layers)
    blocks = sum(layer.size(experts=False) for layer in shape.layers)
    ends = shape.parameters - experts - blocks
    micro, half = 4, 0.5
    assert found["gather weights"].bytes == micro * half * (
        2 * (2 * experts + 4 * blocks) + 4 * ends
    )
    assert found["add up gradients"].bytes == micro * half * 4 * shape.parameters


def test_rows_of_experts_travel_in_half_to_the_other_of_two_ranks():
    found = sent({"dp_shard": 2, "ep": 2})["experts' rows"]
    tokens, layers = 16 // 2 * 512, 5  # 4 MoE layers of 5, and the MTP layer
    each = 2 * (2 * 256 * (2 + 4) + 4 * 12) / 2
    assert found.bytes == tokens * layers * each
    again = sent({"dp_shard": 2, "ep": 2, "recompute": "moe"})["experts' rows"]
    assert again.bytes == 1.5 * found.bytes


def test_between_machines_the_network_is_the_limit():
    inside, across = (Traffic("gather weights", 1e9, n, 8, True) for n in (8, 16))
    near = inside.seconds(H100, ASSUMED)
    assert near == pytest.approx(1e9 / 450e9 / ASSUMED.gather_share)
    rows = Traffic("experts' rows", 1e9, 16, 8, False)
    assert rows.seconds(H100, ASSUMED) > 3.9 * near
    assert across.seconds(H100, ASSUMED) == pytest.approx(near, rel=0.3)  # 8 GPUs send a part each
