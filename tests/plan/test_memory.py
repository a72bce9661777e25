"""Bytes of a rank against counts by hand: Ling-mini on 8 GPUs, each saving alone and all."""

from __future__ import annotations

import pytest

from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.plan.memory import memory
from ling.plan.shape import shape_of
from ling.presets import preset

MINI = preset("ling-mini-2.0")


def ling_mini(layout=None, optim="adamw", **train):
    recipe = PretrainConfig(
        model="ling-mini-2.0",
        data=DataConfig(prefix=["x"], seq_length=4096),
        train=TrainConfig(global_batch_size=128, micro_batch_size=1, **train),
        optim=OptimConfig(name=optim),
        parallel=ParallelConfig(**(layout or {"dp_shard": 8, "ep": 8})),
    )
    return memory(shape_of(MINI, 4096), recipe)


def test_weights_gradients_and_states_of_ling_mini_on_8_gpus():
    (found,) = ling_mini()
    all_of = shape_of(MINI, 4096).parameters
    assert all_of == 17_083_499_776
    assert found.parameters == found.gradients == pytest.approx(4 * all_of / 8, rel=1e-5)
    assert found.states == 2 * found.parameters
    assert found.fp8_weights == 0
    assert (found.rank, found.last) == (0, 7)


def test_the_peak_is_between_what_is_always_there_and_the_sum_of_all():
    for found in ling_mini({"dp_shard": 2, "ep": 2, "pp": 4}):
        always = found.parameters + found.states + found.fp8_weights
        assert always < found.peak <= sum(found.kinds().values())


def test_recomputation_takes_activations_away():
    layouts = [{"dp_shard": 8, "ep": 8, "recompute": what} for what in ("none", "moe", "full")]
    none, moe, full = (ling_mini(layout)[0].activations for layout in layouts)
    assert moe < 0.6 * none
    assert full < 0.85 * moe


def test_ranks_of_a_pipeline_have_their_stages():
    found = ling_mini({"dp_shard": 2, "ep": 2, "pp": 4})
    assert [(m.rank, m.last) for m in found] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    numbers = 4 * shape_of(MINI, 4096).parameters / 2
    # The last stage has the embedding again, for its MTP layer.
    assert sum(m.parameters for m in found) == pytest.approx(numbers + 2 * 157184 * 2048, rel=1e-5)
    assert [m.loss > 0 for m in found] == [False, False, False, True]


def test_activations_of_ling_mini_counted_by_hand():
    tokens, d, qkv = 4096, 2048, 3072
    around = 2 * 4 * d  # two norms: in and out
    attention = 2 * (qkv + 2 * 2048 + 512) + 4 * 16  # qkv; q, k turned; result; sums of softmax
    router = 4 * (d + 2 * 256 + 2 + 2 * 8) + 8 * 8
    experts = 2 * 8 * (d + 2 * 512 + d) + 8 * (8 + 4)
    shared, dense, mtp = 2 * 4 * 512, 2 * 4 * 5120, 2 * 5 * d
    always = 21 * around + 20 * router + mtp
    wanted = {
        "none": always + 21 * attention + 20 * (shared + experts) + dense,
        "moe": always + 21 * attention + dense,
        "full": always,
    }
    for what, each in wanted.items():
        (found,) = ling_mini({"dp_shard": 8, "ep": 8, "recompute": what})
        assert found.activations == tokens * each


PEERS = {
    "vocab_size": 32768,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 64,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 256,
    "num_nextn_predict_layers": 0,
}
FSDP, EP = {"dp_shard": 2}, {"dp_shard": 2, "ep": 2}


@pytest.mark.parametrize(
    ("model", "length", "rows", "micro", "layout", "held"),
    [
        # What the shares of the heap were fitted to, as in docs/guides/plan.md.
        (PEERS, 1024, 4, 4, {}, 4950),
        (PEERS, 1024, 4, 4, {"recompute": "full"}, 4390),
        (PEERS, 1024, 8, 4, FSDP, 4703),
        (PEERS, 1024, 8, 4, {**FSDP, "recompute": "full"}, 4251),
        (PEERS, 1024, 8, 4, EP, 3634),
        (PEERS, 1024, 8, 4, {**EP, "recompute": "moe"}, 3675),
        # Other runs.
        (PEERS, 1024, 8, 4, {}, 5500),
        (PEERS, 1024, 8, 2, FSDP, 4900),
        ({}, 512, 8, 8, {}, 913),
        ({}, 1024, 8, 4, {}, 1070),
        ({}, 512, 8, 2, FSDP, 610),
        ({}, 512, 8, 2, EP, 492),
        ({}, 512, 8, 2, {"dp_shard": 4, "ep": 4}, 366),
        (preset("ling-nano-bench"), 512, 8, 2, {}, 1180),
        (preset("ling-nano-bench"), 512, 8, 2, FSDP, 1170),
        (preset("ling-nano-bench"), 512, 8, 2, EP, 820),
    ],
)
def test_measured_runs_held_what_is_counted(model, length, rows, micro, layout, held):
    recipe = PretrainConfig(
        model="ling-nano",
        data=DataConfig(prefix=["x"], seq_length=length),
        train=TrainConfig(global_batch_size=rows, micro_batch_size=micro),
        parallel=ParallelConfig(**layout),
    )
    cfg = preset("ling-nano").replace(**model) if isinstance(model, dict) else model
    shape = shape_of(cfg, length)
    assert memory(shape, recipe, "cpu")[0].peak == pytest.approx(held * 1e6, rel=0.1)
