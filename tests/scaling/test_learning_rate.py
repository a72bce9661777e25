"""The best learning rate, where there is one between those that were tried."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scaling_rows import row, sweep

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
