"""Stages of a pipeline: cut where the dearest is cheapest, refused where they cannot be filled."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from ling.config.parallel import ParallelConfig
from ling.config.recipe import TrainConfig
from ling.errors import UsageError
from ling.plan.stages import (
    check_stages,
    cut,
    described,
    layer_costs,
    stage_layers,
)
from ling.presets import preset


def dearest(stages, costs, last):
    sums = [sum(costs[i] for i in stage) for stage in stages]
    sums[-1] += last
    return max(sums)


@pytest.mark.parametrize("stages", [2, 3, 4, 6])
def test_no_other_cut_has_a_cheaper_dearest_stage(stages):
    rng = np.random.RandomState(stages)
    costs, last = rng.rand(9).tolist(), 2 * rng.rand()
    found = cut(costs, last, stages)
    assert [i for stage in found for i in stage] == list(range(9))
    assert all(len(stage) for stage in found[:-1])
    every = (
        [range(a, b) for a, b in pairwise([0, *ends, 9])]
        for ends in combinations(range(1, 10), stages - 1)
    )
    assert dearest(found, costs, last) == min(dearest(other, costs, last) for other in every)


def test_the_last_stage_has_fewer_layers_because_of_head_and_mtp():
    mini = preset("ling-mini-2.0")
    mtp = mini.replace(num_nextn_predict_layers=1)
    without = mini.replace(num_nextn_predict_layers=0)
    layout = ParallelConfig(pp=2)
    assert [len(s) for s in stage_layers(layout, mtp, 4096)] == [13, 7]
    assert [len(s) for s in stage_layers(layout, without, 4096)] == [11, 9]
    # The first layer is dense, the head as dear as two layers, the MTP layer dearer than its block.
    costs, last = layer_costs(mtp, 4096)
    assert costs[0] < costs[1] == costs[-1]
    head = layer_costs(without, 4096)[1]
    assert 2 < head / costs[-1] < 2.5
    assert 1 < (last - 2 * head) / costs[-1] < 1.1


def test_the_log_says_what_is_where():
    tiny = preset("ling-tiny")
    assert described([range(0, 2), range(2, 3)], tiny) == (
        "pipeline stages: layers 0-1 | layer 2, head, MTP"
    )
    plain = tiny.replace(num_nextn_predict_layers=0)
    assert described([range(3), range(3, 3)], plain) == "pipeline stages: layers 0-2 | head"


def check(rows, **degrees):
    train = TrainConfig(global_batch_size=rows, micro_batch_size=2)
    check_stages(ParallelConfig(**degrees), train, preset("ling-tiny"))


@pytest.mark.parametrize(
    ("rows", "degrees"),
    [
        (8, {"pp": 4}),
        (10, {"pp": 4}),
        (8, {"pp": 2, "dp_shard": 2}),
        (4, {"pp": 2, "pp_stages_per_rank": 2}),
        (6, {"pp": 2, "pp_stages_per_rank": 2}),
    ],
)
def test_stages_that_are_filled(rows, degrees):
    check(rows, **degrees)


@pytest.mark.parametrize(
    ("rows", "degrees", "said"),
    [
        (8, {"pp": 5}, "= 5 stages are more than 3 layers and the head; set them to 4 at most"),
        (8, {"pp": 2, "pp_stages_per_rank": 3}, "= 6 stages are more"),
        (6, {"pp": 4}, "= 6 makes 3 micro-batches, .* 4 ranks in turn; set it to 8"),
        (8, {"pp": 4, "dp_replicate": 2}, "= 8 makes 2 micro-batches, .*; set it to 16"),
        (10, {"pp": 2, "pp_stages_per_rank": 2}, "= 10 makes 5 micro-batches, .*; set it to 12"),
    ],
)
def test_stages_that_cannot_be_filled_are_refused_with_the_fix(rows, degrees, said):
    with pytest.raises(UsageError, match=said):
        check(rows, **degrees)
