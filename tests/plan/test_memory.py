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
