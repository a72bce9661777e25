"""The best learning rate, where there is one between those that were tried."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scaling_rows import row, sweep

from ling.scaling import learning_rate
from ling.scaling.learning_rate import best_rates
from ling.scaling.noise import Noise


def tried(losses, noise=None):
    rows = [
        row(run=f"x{factor}", lr=0.01 * factor, lr_factor=factor, loss=loss)
        for factor, loss in losses.items()
    ]
    return best_rates(rows, noise, np.random.default_rng(0))


def parabola(best, at=(0.5, 1.0, 2.0)):
    return {factor: 3.0 + 0.05 * math.log2(factor / best) ** 2 for factor in at}


def test_the_vertex_of_a_parabola_is_found():
    (found,) = tried(parabola(1.3))
    assert found.factor == pytest.approx(1.3)
    assert found.lr == pytest.approx(0.013)
    assert found.gain == pytest.approx(0.05 * math.log2(1.3) ** 2)
    assert found.factor_interval is None


def test_noise_gives_an_interval_inside_what_was_tried():
    (found,) = tried(parabola(1.3), Noise(0.005, 3))
    low, high = found.factor_interval
    assert 0.5 <= low < 1.3 < high <= 2


def test_the_interval_is_that_of_the_vertex():
    """Small errors move the vertex by those of the outer two points and the middle one."""
    sigma, best = 0.0005, 1.3
    (found,) = tried(parabola(best), Noise(sigma, 10**6))
    a, x = 0.05, math.log2(best)
    # vertex = (y0 - y2) / (4 a), and a = (y0 + y2 - 2 y1) / 2 for points at -1, 0, 1
    slopes = [1 / (4 * a) - x / (2 * a), x / a, -1 / (4 * a) - x / (2 * a)]
    spread = 1.96 * sigma * math.hypot(*slopes)
    expected = best * 2**-spread, best * 2**spread
    assert found.factor_interval == pytest.approx(expected, rel=0.01)


def test_a_mean_of_seeds_has_less_noise():
    rows = [
        row(run=f"{factor}-{seed}", seed=seed, lr=0.01 * factor, lr_factor=factor, loss=loss)
        for factor, loss in parabola(1.0).items()
        for seed in range(4)
    ]
    (one,) = tried(parabola(1.0), Noise(0.002, 100))
    (four,) = best_rates(rows, Noise(0.002, 100), np.random.default_rng(0))
    width, half = (np.diff(np.log(found.factor_interval)) for found in (one, four))
    assert half == pytest.approx(width / 2, rel=0.05)


def test_without_a_minimum_the_better_end_is_lowest():
    x, rows = np.array([-1.0, 0.0, 1.0]), np.array([[3.0, 3.2, 3.1], [3.1, 3.2, 3.0]])
    assert learning_rate._lowest(x, rows).tolist() == [-1.0, 1.0]


def test_large_noise_leaves_every_rate_that_was_tried():
    (found,) = tried(parabola(1.3), Noise(0.5, 3))
    assert found.factor_interval == pytest.approx((0.5, 2.0))


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        (parabola(3.0), "the best is higher than the rates that were tried"),
        (parabola(0.2), "the best is lower than the rates that were tried"),
        ({0.5: 3.0, 1.0: 3.2, 2.0: 3.1}, "no minimum"),
        ({0.5: 3.0, 1.0: 3.0, 2.0: 3.0}, "no minimum"),
        ({0.5: 3.0, 1.0: 2.9}, "2 of 3 rates that a parabola needs"),  # the third diverged
    ],
)
def test_no_minimum_is_told(losses, reason):
    (found,) = tried(losses)
    assert reason in found.reason
    assert found.lr is None


def test_only_what_was_tried_with_several_rates():
    assert not tried({1.0: 2.9})
    found = best_rates(sweep(rates_at=3e13, best_factor=1.2), None, np.random.default_rng(0))
    assert [one.family for one in found] == ["dense", "1/8", "1/32"]
    assert [one.factor for one in found] == pytest.approx([1.2] * 3)
