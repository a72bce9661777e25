"""Layouts that do not fit ranks, batch or model are refused with the fix."""

from __future__ import annotations

import pytest
import torch

from ling.config.parallel import ParallelConfig
from ling.config.recipe import TrainConfig
from ling.errors import UsageError
from ling.plan.layouts import check_fp8_sizes, check_layout
from ling.presets import preset
from ling.train.parallel.group import World
from ling.train.state import TrainState

TINY = preset("ling-tiny")


def check(ranks, degrees, rows=8, **model):
    train = TrainConfig(global_batch_size=rows, micro_batch_size=2)
    check_layout(ParallelConfig(**degrees), train, TINY.replace(**model), ranks)


@pytest.mark.parametrize(
    ("ranks", "degrees"),
    [(1, {}), (2, {"dp_replicate": 2}), (4, {"dp_shard": 4, "ep": 2}), (4, {"dp_shard": 4})],
)
def test_layouts_that_fit(ranks, degrees):
    check(ranks, degrees)


@pytest.mark.parametrize(
    ("ranks", "degrees", "said"),
    [
        (4, {}, r"4 ranks were started, .* = 1; set `parallel.dp_shard: 4`, or start 1 "),
        (
            1,
            {"dp_shard": 2},
            r"1 rank was .* = 2; set `parallel.dp_shard: 1`, or start 2 \(",
        ),
        (3, {"dp_replicate": 2}, r"3 ranks .* dp_replicate 2 × dp_shard 1 .* = 2; start 2 \("),
        (8, {"dp_shard": 8}, r"global_batch_size` = 8 is not a multiple .* 2 × 8; set it to 16"),
    ],
)
def test_ranks_and_rows_that_do_not_fit_are_refused_with_the_fix(ranks, degrees, said):
    with pytest.raises(UsageError, match=said):
        check(ranks, degrees)


def test_every_batch_of_a_ramp_must_fit():
    train = TrainConfig(global_batch_size=16, micro_batch_size=2, rampup_batch_size=[4, 2, 60])
    check_layout(ParallelConfig(dp_shard=1), train, TINY, 1)
    said = r"`train.rampup_batch_size` \(from step 4\) = 6 is not .* 2 × 2; set it to 8"
    with pytest.raises(UsageError, match=said):
        check_layout(ParallelConfig(dp_shard=2), train, TINY, 2)


def test_ranks_share_the_rows_of_every_batch_of_a_ramp():
    train = TrainConfig(global_batch_size=16, micro_batch_size=2, rampup_batch_size=[4, 4, 24])
    for step in range(10):
        shared = []
        for rank in range(2):
            state = TrainState(None, None, torch.device("cpu"), World(rank, 2), step=step)
            state.rows = train.rows(step)
            shared += [
                r + k for r in state.first_rows(train, ParallelConfig(dp_shard=2)) for k in range(2)
            ]
        assert sorted(shared) == list(range(train.rows(step), train.rows(step + 1)))


def test_experts_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="does not divide the model's 18 experts"):
        check(4, {"dp_shard": 4, "ep": 4}, num_experts=18, n_group=2, topk_group=1)
    with pytest.raises(UsageError, match="`moe_intermediate_size` = 33"):
        check(4, {"dp_shard": 4, "ep": 2}, moe_intermediate_size=33)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"intermediate_size": 1000}, "`model.layers.0.mlp.gate_proj.weight` is 1000 × 256"),
        ({"moe_intermediate_size": 72}, "`model.layers.1.mlp.experts.0.gate_proj.weight` is 72 × "),
    ],
)
def test_a_size_that_fp8_products_cannot_have_is_refused(change, said):
    cfg = preset("ling-nano").replace(**change)
    check_fp8_sizes(TrainConfig(), cfg)
    with pytest.raises(UsageError, match=f"{said}.*`train.fp8: off`"):
        check_fp8_sizes(TrainConfig(fp8="blockwise"), cfg)
