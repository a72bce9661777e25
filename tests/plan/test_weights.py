"""Bytes of a rank's weights against counts by hand: Ling-mini on 8 GPUs, each saving alone."""

from __future__ import annotations

import dataclasses

import pytest

from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.plan.shape import Weight, shape_of
from ling.plan.weights import RankWeights, gathered_item
from ling.presets import preset

MINI = shape_of(preset("ling-mini-2.0"), 4096)
EXPERTS = 20 * 3 * 256 * 2048 * 512  # 19 layers and the MTP layer
SHARED = 20 * 3 * 2048 * 512
ATTENTION = 21 * (3072 * 2048 + 2048 * 2048)
DENSE = 3 * 2048 * 5120
EH_PROJ = 2 * 2048 * 2048
SCALES = 4 / 128**2  # for each number
ON = {"fp8": "blockwise", "fp8_param_gather": True}


def recipe(layout, optim="adamw", **train):
    return PretrainConfig(
        model="ling-mini-2.0",
        data=DataConfig(prefix=["x"], seq_length=4096),
        train=TrainConfig(global_batch_size=128, micro_batch_size=1, **train),
        optim=OptimConfig(name=optim),
        parallel=ParallelConfig(**layout),
    )


def ep8(device="cuda", **changes):
    return RankWeights(MINI, recipe({"dp_shard": 8, "ep": 8}, **changes), device, 0)


def fsdp8(**train):
    return RankWeights(MINI, recipe({"dp_shard": 8}, **train), "cuda", 0)


def named(part):
    return next(w for w in MINI.layers[1].weights if part in w.name)


def test_parameters_of_ling_mini():
    ends, norms = 2 * 157184 * 2048, 21 * (2 * 2048 + 2 * 128) + 4 * 2048
    routers = 20 * 256 * 2048
    assert (
        MINI.parameters == EXPERTS + SHARED + ATTENTION + DENSE + EH_PROJ + ends + norms + routers
    )


def test_8_bit_states_are_two_codes_and_their_scales():
    plain, small = ep8(), ep8(optim="adamw8bit")
    assert plain.states() == 8 * plain.numbers()
    assert small.states() == pytest.approx(plain.numbers() * (2 + 2 * 4 / 256), rel=1e-3)


def test_fp8_weights_are_codes_and_scales_twice_with_the_transposed():
    once = (EXPERTS / 8 + SHARED + ATTENTION + DENSE) * (1 + SCALES)
    assert ep8(fp8="blockwise").fp8_weights() == once * 2
    assert ep8(fp8="blockwise", fp8_transpose_on_demand=True).fp8_weights() == once
    assert ep8().fp8_weights() == 0


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"fp8_products": "emulation"}])
def test_products_that_read_either_layout_keep_one(change):
    on_demand = ep8(fp8="blockwise", fp8_transpose_on_demand=True)
    assert ep8(fp8="blockwise", **change).fp8_weights() == on_demand.fp8_weights()


def test_gathered_bytes_are_kept_once_and_what_cuts_through_blocks_is_as_before():
    # Shared experts: gate and up have 64 rows on a rank, down 256.
    whole = 2 * (EXPERTS / 8 + SHARED * 2 / 3) * (1 + SCALES)
    parts = ATTENTION + DENSE + SHARED / 3
    assert ep8(**ON).fp8_weights() == whole + parts * (1 / 8 + SCALES)


def test_a_bfloat16_product_beside_fp8_keeps_its_cast():
    assert ep8(**ON).casts() == 2 * EH_PROJ
    assert ep8().casts() == 2 * (EH_PROJ + SHARED + ATTENTION + DENSE)


@pytest.mark.parametrize(
    ("train", "experts", "attention", "shared"),
    [({}, 2, 4, 4), ({"fp8": "blockwise"}, 4, 4, 4), (ON, 1, 1, 4)],
)
def test_weights_travel_as_each_rank_uses_them(train, experts, attention, shared):
    """Experts that ranks quantise come in float32, as one process quantises them."""
    made = recipe({"dp_shard": 8}, **train)
    routed = next(w for w in MINI.layers[1].weights if w.is_experts and "gate_proj" in w.name)
    found = [routed, named("query_key_value"), named("shared_experts.gate_proj")]
    assert [gathered_item(w, made) for w in found] == [experts, attention, shared]


def test_experts_that_a_rank_has_whole_are_not_gathered_unless_others_have_them_too():
    (experts,) = {w for w in MINI.layers[1].weights if w.is_experts and "down" in w.name}
    assert ep8().gathered_bytes(experts) == 0
    assert fsdp8().gathered_bytes(experts) == 2 * experts.size
    copies = recipe({"dp_replicate": 2, "dp_shard": 4, "ep": 4})
    held = RankWeights(MINI, copies, "cuda", 0)
    assert held.gathered_bytes(experts) == 2 * experts.size / 4


def test_gate_and_up_that_share_a_block_are_gathered_in_float32():
    made = recipe({"dp_shard": 8}, **ON)
    gate, down = (
        Weight(f"experts.{n}", (8, 192, 256), fp8=True) for n in ("gate_proj", "down_proj")
    )
    assert [gathered_item(w, made) for w in (gate, down)] == [4, 1]
    alone = dataclasses.replace(gate, fp8=False)
    assert gathered_item(alone, recipe({"dp_shard": 8})) == 2
