"""Leverage at equal loss: read between points, never beyond them."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_rows import row

from ling.scaling import laws
from ling.scaling.equal_loss import measured_leverage
from ling.scaling.frontier import frontier
from ling.scaling.noise import Noise

EXPONENT = 0.1


def point(family, flops, loss, head=1.5):
    of = {"dense": (1.0, None), "1/32": (5 / 129, 8.0)}[family]
    tokens = round(flops / 700_000)
    return row(
        run=f"{family}-{flops:.0e}",
        family=family,
        activation_ratio=of[0],
        granularity=of[1],
        tokens=tokens,
        flops=flops,
        flops_with_head=head * flops,
        target_flops=flops,
        loss=loss,
    )


def power(flops, leverage=1.0):
    """A mixture with a leverage has the loss that a dense model has at that multiple."""
    return 80 * (leverage * flops) ** -EXPONENT


def points(leverage=1.5, budgets=(1e13, 3e13, 1e14)):
    dense = [point("dense", c, power(c)) for c in budgets]
    return frontier(dense + [point("1/32", c, power(c, leverage)) for c in budgets])


def read(found, with_head=False, noise=None, seed=0):
    return measured_leverage(found, with_head, noise, np.random.default_rng(seed))


@pytest.mark.parametrize("leverage", [0.7, 1.0, 1.5, 2.9])
def test_a_known_leverage_is_read(leverage):
    found = read(points(leverage))
    assert found.read
    for one in found.read:
        assert one.leverage == pytest.approx(leverage, rel=1e-9)
        assert one.dense_flops / one.flops == pytest.approx(leverage)
        assert one.law == pytest.approx(laws.leverage(5 / 129, 8, one.flops))
        assert one.leverage_interval is None


def test_both_counts_are_read():
    heavier = [point("dense", c, power(c), head=2.0) for c in (1e13, 3e13, 1e14)]
    mixture = [point("1/32", c, power(c, 1.5), head=1.6) for c in (1e13, 3e13, 1e14)]
    found = read(frontier(heavier + mixture), with_head=True)
    assert [one.leverage for one in found.read] == pytest.approx([1.5 * 2 / 1.6] * len(found.read))
    # The law is about compute without the head.
    expected = [laws.leverage(5 / 129, 8, one.flops / 1.6) for one in found.read]
    assert [one.law for one in found.read] == pytest.approx(expected)


def test_nothing_is_read_beyond_what_both_reached():
    found = read(points(1.5))
    names = {(one.run, one.family) for one in found.unread}
    assert names == {("1/32-1e+14", "1/32"), ("dense-1e+13", "1/32")}
    assert all("nothing is extrapolated" in one.reason for one in found.unread)
    assert {one.run for one in found.read} == {
        "1/32-1e+13",
        "1/32-3e+13",
        "dense-3e+13",
        "dense-1e+14",
    }


def test_far_apart_frontiers_give_nothing():
    found = read(points(200.0))
    assert not found.read
    assert len(found.unread) == 6


def test_the_error_is_that_of_both_frontiers():
    """Of independent noise in loss: about sigma / (loss × exponent) × sqrt(1 + a² + b²)."""
    sigma = 0.01
    found = read(points(1.5), noise=Noise(sigma, 10**6))
    for one in found.read:
        low, high = one.leverage_interval
        assert low < 1.5 < high
        spread = np.log(high / low) / (2 * 1.96)
        unit = sigma / (one.loss * EXPONENT)
        assert 1.15 * unit < spread < 1.5 * unit


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(60):
        noisy = [p._replace(loss=p.loss + 0.01 * rng.standard_normal()) for p in points(1.5)]
        noise = Noise(0.01 * np.sqrt(rng.chisquare(3) / 3), 3)
        for one in measured_leverage(noisy, False, noise, rng).read:
            low, high = one.leverage_interval
            inside.append(low <= 1.5 <= high)
    assert np.mean(inside) > 0.88


def test_an_interval_is_that_of_student_s_distribution():
    """A small error of three losses moves the logarithm in proportion, as many times as t says."""
    stats = pytest.importorskip("scipy.stats")
    for dof in (1, 3):
        for one in read(points(1.5), noise=Noise(1e-5, dof)).read:
            low, high = np.log(one.leverage_interval)
            known = read(points(1.5), noise=Noise(1e-5, 10**6))
            (exact,) = [r.leverage_interval for r in known.read if r.run == one.run]
            times = (high - low) / np.diff(np.log(exact))
            assert times == pytest.approx(stats.t.ppf(0.975, dof) / 1.96, rel=0.03)


def test_a_point_of_either_frontier_has_its_side_of_the_interval():
    """The longer side of compute is the shorter one of leverage where a mixture was looked up."""
    budgets = (1e13, 3e13, 1e14)
    dense = [point("dense", c, loss) for c, loss in zip(budgets, (4.0, 3.5, 3.45), strict=True)]
    mixture = [point("1/32", c, loss) for c, loss in zip(budgets, (3.8, 3.46, 3.3), strict=True)]
    found = read(frontier(dense + mixture), noise=Noise(0.04, 10**6))
    (one,) = (one for one in found.read if one.run == "dense-3e+13")
    expected = one.leverage * _by_hand(3.5, (3.8, 3.46), 0.04)
    assert one.leverage_interval == pytest.approx(expected, rel=0.01)


def _by_hand(loss, ends, sigma):
    """The compute of a mixture at a dense loss is in the divisor: more of it is less leverage."""
    rng = np.random.default_rng(1)
    own, first, second = (v + sigma * rng.standard_normal(400_000) for v in (loss, *ends))
    share = np.log(own / first) / np.log(second / first)
    exact = np.log(loss / ends[0]) / np.log(ends[1] / ends[0])
    return np.percentile(np.exp(-(share - exact) * np.log(3)), [2.5, 97.5])


def test_a_mean_of_seeds_has_less_noise():
    mean = [p._replace(runs=["a", "b", "c", "d"]) for p in points(1.5)]
    for one, four in zip(
        read(points(1.5), noise=Noise(0.01, 100)).read,
        read(mean, noise=Noise(0.01, 100)).read,
        strict=True,
    ):
        width, half = (np.diff(np.log(r.leverage_interval)) for r in (one, four))
        assert half == pytest.approx(width / 2, rel=0.05)


@pytest.mark.parametrize("sigma", [0.3, 3.0, 300.0])
def test_no_interval_where_noise_is_as_large_as_what_a_budget_gains(sigma):
    """A budget gains 0.43 nats here: with such noise a frontier may rise, and reaches no loss."""
    found = read(points(1.5), noise=Noise(sigma, 1))
    assert [one.leverage for one in found.read] == pytest.approx([1.5] * len(found.read))
    assert {one.leverage_interval for one in found.read} == {None}


def test_an_interval_hardly_depends_on_the_draws():
    ends = [
        [r.leverage_interval for r in read(points(), noise=Noise(0.01, 3), seed=s).read]
        for s in range(5)
    ]
    assert np.ptp(np.log(ends), axis=0).max() < 0.05 * np.mean(np.diff(np.log(ends)))


def test_a_frontier_that_does_not_fall_is_told():
    budgets = (1e13, 3e13, 1e14)
    flat = [point("dense", c, 4.0) for c in budgets]
    found = read(frontier(flat + [point("1/32", c, power(c)) for c in budgets]))
    assert not found.read
    assert "the frontier of `dense` does not fall from 1e13 to 3e13 FLOPs" in found.reasons[0]


def test_one_family_or_one_budget_is_told():
    (reason,) = read(frontier([point("dense", 1e13, 4.0)])).reasons
    assert reason == "there is no mixture of experts to compare with"
    (reason,) = read(frontier([point("1/32", 1e13, 4.0)])).reasons
    assert reason == "there is no `dense` family to compare with"
    (reason,) = read(points(budgets=(1e13,))).reasons
    assert "has one budget" in reason
