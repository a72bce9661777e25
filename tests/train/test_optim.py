from __future__ import annotations

import json
import math

import pytest
import torch

from ling.config.recipe import OptimConfig
from ling.errors import RunError, UsageError
from ling.train.optim import build_optimizer, check_strides, learning_rate, merge_weights

# ---- AdamW -------------------------------------------------------------------------------------


def test_two_steps_are_those_of_the_formula_and_vectors_do_not_decay():
    cfg = OptimConfig(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.5)
    model = torch.nn.Linear(4, 3)
    optimizer = build_optimizer(model, cfg)
    want = {n: p.detach().double().clone() for n, p in model.named_parameters()}
    m, v = ({n: torch.zeros_like(p) for n, p in want.items()} for _ in range(2))
    for step in (1, 2):
        for name, p in model.named_parameters():
            g = torch.randn(p.shape)
            p.grad = g
            g = g.double()
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.9 * v[name] + 0.1 * g * g
            first, second = m[name] / (1 - 0.8**step), v[name] / (1 - 0.9**step)
            decay = 0.5 if p.ndim > 1 else 0.0
            want[name] *= 1 - 0.01 * decay
            want[name] -= 0.01 * first / (second.sqrt() + 1e-3)
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach().double(), want[name], atol=1e-6, rtol=1e-5)


def test_frozen_parameters_are_not_in_the_optimizer():
    model = torch.nn.Linear(4, 3)
    model.weight.requires_grad_(False)
    groups = build_optimizer(model, OptimConfig()).param_groups
    assert [len(g["params"]) for g in groups] == [0, 1]


# ---- learning rate -----------------------------------------------------------------------------


def test_cosine_follows_the_published_log():
    cfg = OptimConfig(lr=3e-5, lr_min=3e-6)
    assert learning_rate(cfg, 1, 2000) == pytest.approx(2.999998e-5, abs=1e-11)
    assert learning_rate(cfg, 10, 2000) == pytest.approx(2.999833e-5, abs=1e-11)
    assert learning_rate(cfg, 2000, 2000) == pytest.approx(3e-6)


def test_warm_up_is_linear_and_the_cosine_begins_behind_it():
    cfg = OptimConfig(lr=1.0, lr_min=0.2, warmup_steps=4)
    assert [learning_rate(cfg, n, 12) for n in (1, 2, 4)] == [0.25, 0.5, 1.0]
    for step in range(5, 13):
        want = 0.2 + 0.8 * (1 + math.cos(math.pi * (step - 4) / 8)) / 2
        assert learning_rate(cfg, step, 12) == pytest.approx(want)
    assert learning_rate(cfg, 12, 12) == learning_rate(cfg, 99, 12) == pytest.approx(0.2)
    # A run that is all warm-up has no cosine.
    assert learning_rate(cfg, 4, 4) == 1.0


def test_a_constant_schedule_stays_at_its_peak():
    cfg = OptimConfig(lr=1.0, lr_min=0.2, warmup_steps=2, schedule="constant")
    assert [learning_rate(cfg, n, 10) for n in (1, 2, 3, 10)] == [0.5, 1, 1, 1]


# ---- merging -----------------------------------------------------------------------------------


def test_merge_weights_equal_the_formula(fixtures):
    names = {"linear_to_zero": "linear", "one_minus_sqrt": "one-minus-sqrt"}
    cases = json.loads((fixtures / "training" / "wsm_weights.json").read_text())
    for case in cases:
        schedule = names.get(case["gradient_weights"], case["gradient_weights"])
        assert merge_weights(case["k"], schedule) == pytest.approx(case["c"])
    with pytest.raises(UsageError):
        merge_weights(2, "magic")


@pytest.mark.parametrize("schedule", ["mean", "linear", "cosine", "one-minus-sqrt"])
def test_merge_weights_add_up_to_one_and_none_is_negative(schedule):
    for k in (1, 2, 9):
        weights = merge_weights(k, schedule)
        assert len(weights) == k + 1
        assert sum(weights) == pytest.approx(1)
        assert min(weights) >= 0
    assert merge_weights(4, "mean") == pytest.approx([0.2] * 5)
    with pytest.raises(UsageError, match="cannot merge 0 checkpoints"):
        merge_weights(-1, schedule)


def test_a_gradient_of_other_strides_than_its_parameter_is_refused():
    good, bad = (torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(2))
    good.grad = torch.zeros(3, 4)
    check_strides([good, bad])
    bad.grad = torch.zeros(3, 8)[:, ::2]
    with pytest.raises(RunError, match=r"shape \[3, 4\] has strides \(8, 2\) instead of \(4, 1\)"):
        check_strides([good, bad])
