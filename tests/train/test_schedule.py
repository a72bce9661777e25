"""What changes with the step, and decays as weights of a merge."""

from __future__ import annotations

import json
import math

import pytest

from ling.config.optim import OptimConfig
from ling.config.recipe import TrainConfig
from ling.errors import UsageError
from ling.train.schedule import (
    bias_update_rate,
    decay_between,
    learning_rate,
    merge_weights,
    weights_of_decay,
)


def rates(optim, steps, upto=None, **train):
    cfg = TrainConfig(steps=steps, **train)
    return [learning_rate(optim, cfg, n) for n in range(1, (upto or steps) + 1)]


# ---- learning rate -----------------------------------------------------------------------------


def test_cosine_follows_the_published_log():
    cfg = rates(OptimConfig(lr=3e-5, lr_min=3e-6), 2000)
    assert cfg[0] == pytest.approx(2.999998e-5, abs=1e-11)
    assert cfg[9] == pytest.approx(2.999833e-5, abs=1e-11)
    assert cfg[-1] == pytest.approx(3e-6)


def test_warm_up_is_linear_and_the_cosine_begins_behind_it():
    found = rates(OptimConfig(lr=1.0, lr_min=0.2, warmup_steps=4), 12, upto=99)
    assert [found[n - 1] for n in (1, 2, 4)] == [0.25, 0.5, 1.0]
    for step in range(5, 13):
        want = 0.2 + 0.8 * (1 + math.cos(math.pi * (step - 4) / 8)) / 2
        assert found[step - 1] == pytest.approx(want)
    assert found[11] == found[98] == pytest.approx(0.2)
    # A run that is all warm-up has no cosine.
    assert rates(OptimConfig(lr=1.0, warmup_steps=4), 4)[3] == 1.0


def test_a_constant_schedule_stays_at_its_peak():
    cfg = OptimConfig(lr=1.0, lr_min=0.2, warmup_steps=2, schedule="constant")
    found = rates(cfg, 10)
    assert found == [0.5, *[1.0] * 9]


def test_a_linear_schedule_may_end_before_the_run():
    cfg = OptimConfig(lr=1.0, lr_min=0.2, schedule="linear", decay_end_step=4)
    assert rates(cfg, 6) == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


@pytest.mark.parametrize(
    ("shape", "course"),
    [
        ("linear", lambda r: 1 - r),
        ("cosine", lambda r: 0.5 * (math.cos(math.pi * r) + 1)),
        ("one-minus-sqrt", lambda r: 1 - r**0.5),
        ("exponential", lambda r: 2 * 0.5**r - 1),
    ],
)
def test_wsd_is_constant_and_then_falls_by_its_shape(shape, course):
    """Megatron-LM's formulas of `--lr-wsd-decay-style`."""
    cfg = OptimConfig(
        lr=1.0, lr_min=0.1, warmup_steps=2, schedule="wsd", decay_steps=4, decay_shape=shape
    )
    found = rates(cfg, 10)
    assert found[:6] == [0.5, 1, 1, 1, 1, 1]
    assert found[6:] == pytest.approx([0.1 + 0.9 * course(r / 4) for r in range(1, 5)])


def test_warm_up_in_samples_and_decays_advance_with_the_rows_of_a_growing_batch():
    ramp = {"global_batch_size": 8, "micro_batch_size": 2, "rampup_batch_size": [2, 2, 24]}
    # Rows after each step: 2 4 6 8 | 12 16 | 22 28 | 36 44.
    cfg = OptimConfig(lr=1.0, warmup_samples=8, schedule="linear")
    assert rates(cfg, 10, **ramp) == pytest.approx(
        [0.25, 0.5, 0.75, 1, *(1 - (rows - 8) / 36 for rows in (12, 16, 22, 28, 36, 44))]
    )
    wsd = OptimConfig(lr=1.0, schedule="wsd", decay_steps=2, decay_shape="linear")
    assert rates(wsd, 10, **ramp) == pytest.approx([*[1] * 8, 0.5, 0])
    by_steps = OptimConfig(lr=1.0, warmup_steps=4, schedule="constant")
    assert rates(by_steps, 6, **ramp) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_a_warm_up_longer_than_the_run_ends_where_it_is():
    cfg = OptimConfig(lr=1.0, warmup_samples=64, schedule="wsd", decay_steps=1)
    assert rates(cfg, 2, global_batch_size=16) == [0.25, 0.5]


# ---- bias --------------------------------------------------------------------------------------


def test_the_bias_rate_holds_falls_and_ends():
    def found(**fields):
        cfg = TrainConfig(bias_update_rate=1.0, **fields)
        return [bias_update_rate(cfg, n) for n in range(1, 8)]

    assert found() == [1.0] * 7
    assert found(bias_update_hold_steps=3) == [1, 1, 1, 0, 0, 0, 0]
    assert found(bias_update_hold_steps=0, bias_update_rate_end=0.1) == [0.1] * 7
    falling = found(bias_update_hold_steps=2, bias_update_decay_steps=4, bias_update_rate_end=0.2)
    assert falling == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2, 0.2])


# ---- merging -----------------------------------------------------------------------------------


def test_merge_weights_equal_the_formula(fixtures):
    names = {"linear_to_zero": "linear", "one_minus_sqrt": "one-minus-sqrt"}
    cases = json.loads((fixtures / "training" / "wsm_weights.json").read_text())
    for case in cases:
        schedule = names.get(case["gradient_weights"], case["gradient_weights"])
        assert merge_weights(case["k"], schedule) == pytest.approx(case["c"])
    with pytest.raises(UsageError, match="no merge schedule `magic`"):
        merge_weights(2, "magic")


@pytest.mark.parametrize("schedule", ["mean", "linear", "cosine", "one-minus-sqrt", "exponential"])
def test_merge_weights_add_up_to_one_and_none_is_negative(schedule):
    for k in (1, 2, 9):
        weights = merge_weights(k, schedule)
        assert len(weights) == k + 1
        assert sum(weights) == pytest.approx(1)
        assert min(weights) >= 0
    assert merge_weights(4, "mean") == pytest.approx([0.2] * 5)
    with pytest.raises(UsageError, match="cannot merge 0 checkpoints"):
        merge_weights(-1, schedule)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_merge_like_a_recipe_is_training_with_its_rates(schedule):
    """Of updates that do not depend on the weights, as the theory has it."""
    decay = 6 if schedule == "wsd" else None
    optim = OptimConfig(lr=0.5, lr_min=0.05, schedule=schedule, decay_steps=decay)
    train = TrainConfig(steps=12)
    steps = [0, 2, 5, 6, 9, 12]
    wanted = decay_between(steps, optim, train)
    weights = weights_of_decay(wanted)
    # Constant rate, and an update of 1 a step; then the decayed rate by the means of intervals.
    constant = [-0.5 * s for s in steps]
    merged = sum(w * theta for w, theta in zip(weights, constant, strict=True))
    decayed = -sum(rates(optim, 12))
    assert merged == pytest.approx(decayed)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)


@pytest.mark.parametrize("decay", [[0.5, 0.6], [1.1], [0.5, -0.1], [float("nan")]])
def test_no_merge_stands_for_rates_that_rise_or_leave_the_bounds(decay):
    with pytest.raises(UsageError, match="merging can stand for a decay from at most 1 to 0"):
        weights_of_decay(decay)


def test_rates_during_a_warm_up_are_no_decay():
    optim, train = OptimConfig(warmup_steps=4), TrainConfig(steps=8)
    with pytest.raises(UsageError, match="merging can stand for"):
        weights_of_decay(decay_between([0, 2, 4, 8], optim, train))
    with pytest.raises(UsageError, match=r"`optim.lr` is 0"):
        decay_between([0, 2], OptimConfig(lr=0), train)
