"""Every number that the papers and reports give, or that follows from them."""

from __future__ import annotations

import pytest

from ling.presets import preset
from ling.scaling import laws

TWENTY_TRILLION = 20e12
# Learning rate, batch in sequences of 4,096, compute behind the rate, batch of the law.
RELEASED = [
    ("ling-mini-2.0", 3.36e-4, 4400, 1.36e23, 4561),
    ("ling-flash-2.0", 2.61e-4, 8352, 7.1e23, 8328),
    ("ling-1t", 1.86e-4, 18144, 6.5e24, 18672),
]


@pytest.mark.parametrize(("name", "lr", "batch", "flops", "predicted"), RELEASED)
def test_learning_rate_and_batch_of_the_released_models(name, lr, batch, flops, predicted):
    factor, exponent = laws.LR
    behind = (lr / factor) ** (1 / exponent)
    assert behind == pytest.approx(flops, rel=5e-3)
    found = laws.optimal_batch_tokens(behind) / 4096
    assert found == pytest.approx(predicted, abs=1)
    assert found == pytest.approx(batch, rel=0.04)


@pytest.mark.parametrize(("name", "lr", "batch", "flops", "predicted"), RELEASED)
def test_flops_are_counted_as_the_laws_count(name, lr, batch, flops, predicted):
    """20T tokens of the shape are the compute that the published learning rate stands for."""
    counted = laws.token_flops(preset(name), 4096).without_head * TWENTY_TRILLION
    assert counted == pytest.approx(flops, rel=0.01)
    assert laws.optimal_lr(counted) == pytest.approx(lr, rel=0.002)


def test_head_and_mtp_are_counted_apart():
    cfg = preset("ling-mini-2.0")
    found = laws.token_flops(cfg, 4096)
    assert found.with_head - found.without_head == 6 * cfg.vocab_size * cfg.hidden_size
    assert found == laws.token_flops(cfg.replace(num_nextn_predict_layers=0), 4096)
    attention = 12 * cfg.num_hidden_layers * cfg.q_size * 4096
    assert found.without_head == 6 * 789_142_528 + attention


@pytest.mark.parametrize(
    ("a", "g", "flops", "expected"),
    [
        (0.031, 12, 1e22, 7.245),
        (9 / 257, 8, 1e22, 6.79),
        (5 / 129, 8, 1e13, 0.89),
        (5 / 129, 8, 1e14, 1.11),
        (5 / 129, 8, 3e14, 1.23),
        (5 / 129, 8, 1e15, 1.38),
        (5 / 33, 4, 1e13, 0.88),
        (5 / 33, 4, 1e14, 1.00),
        (5 / 33, 4, 3e14, 1.07),
        (0.035, 8, 1e13, 0.89),
        (0.035, 8, 1e14, 1.11),
        (0.035, 8, 1e15, 1.40),
        (1.0, 8, 1e20, 0.99),
    ],
)
def test_leverage(a, g, flops, expected):
    assert laws.leverage(a, g, flops) == pytest.approx(expected, abs=0.006)


def test_the_claim_and_the_best_granularity_need_these_log_bases():
    claim = laws.CLAIM
    at = (claim["activation_ratio"], claim["granularity"], claim["flops"])
    assert laws.leverage(*at) > claim["at_least"]
    best = max(range(1, 65), key=lambda g: laws.leverage(0.031, g, 1e22))
    assert best == 11  # of the published range 8 to 12


def test_leverage_grows_with_compute_and_falls_with_activation():
    assert laws.leverage(0.035, 8, 1e20) > laws.leverage(0.035, 8, 1e16)
    assert laws.leverage(0.035, 8, 1e20) > laws.leverage(0.15, 8, 1e20)


@pytest.mark.parametrize(
    ("flops", "m", "d", "lr", "batch"),
    [
        (1e13, 7.3e5, 14e6, 0.012, 3.8e3),
        (1e14, 2.6e6, 39e6, 0.0084, 8.8e3),
        (3e14, 4.6e6, 65e6, 0.0071, 13e3),
    ],
)
def test_small_budgets(flops, m, d, lr, batch):
    assert laws.allocation(flops, "dense") == pytest.approx((m, d), rel=0.03)
    assert laws.optimal_lr(flops) == pytest.approx(lr, rel=0.01)
    assert laws.optimal_batch_tokens(flops) == pytest.approx(batch, rel=0.02)


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("flops", [1e13, 1e18, 1e24])
def test_allocation_multiplies_to_the_compute(kind, flops):
    m, d = laws.allocation(flops, kind)
    assert m * d == pytest.approx(flops, rel=0.001)


def test_shapes():
    cfg = preset("ling-mini-2.0")
    assert laws.activation_ratio(cfg) == 9 / 257
    assert laws.granularity(cfg) == 8
    dense = preset("dense-8b")
    assert laws.activation_ratio(dense) == 1
    assert laws.granularity(dense) is None


def test_range_of_the_fit_is_told():
    assert laws.was_fitted_at(1e18)
    assert not laws.was_fitted_at(1e14)
    assert not laws.was_fitted_at(1e22)
