"""Noise from second seeds, and intervals from noise."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_rows import row

from ling.scaling.noise import COVERAGE, REPLICAS, Noise, interval, larger, seed_noise


def test_noise_is_pooled_over_what_was_repeated():
    rows = [
        row(loss=4.0),
        row(run="b", seed=1, loss=4.02),
        row(run="c", size="l", loss=3.0),
        row(run="d", size="l", seed=1, loss=3.04),
        row(run="e", size="s", loss=9.0),
    ]
    found = seed_noise(rows)
    assert found.dof == 2
    assert found.sigma == pytest.approx(np.sqrt((0.02**2 / 2 + 0.04**2 / 2) / 2))


def test_without_a_second_seed_it_is_not_known():
    assert seed_noise([row(), row(run="b", lr_factor=2.0)]) is None


def test_intervals_hold_what_they_say_although_sigma_is_estimated():
    """Two runs estimate the noise, a third is predicted by their mean: Student's distribution."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        a, b, c = rng.standard_normal(3)
        noise = Noise(abs(a - b) / np.sqrt(2), 1)
        errors = noise.draw(rng, 1)[:, 0] * np.sqrt(1.5)
        low, high = interval((a + b) / 2 + errors)
        inside += low <= c <= high
    assert 0.92 < inside / 400 < 0.98


def test_draws_are_rows_of_points():
    assert Noise(0.1, 3).draw(np.random.default_rng(0), 5).shape == (REPLICAS, 5)


def test_the_bound_of_an_error_is_what_draws_are_smaller_than():
    pytest.importorskip("scipy")
    noise = Noise(0.1, 3)
    drawn = noise.draw(np.random.default_rng(0), 1, 200_000)
    assert np.mean(np.abs(drawn) < noise.bound()) == pytest.approx(COVERAGE, abs=0.002)
    assert noise.bound() == pytest.approx(0.3182, abs=1e-4)


def test_a_value_has_the_spread_of_what_is_expected_and_its_own_noise():
    rng = np.random.default_rng(0)
    low, high = Noise(0.3, 10**6).around(rng, 2 + 0.4 * rng.standard_normal(400))
    assert (low, high) == pytest.approx((2 - 1.96 * 0.5, 2 + 1.96 * 0.5), abs=0.08)


def test_larger():
    pytest.importorskip("scipy")
    a, b = Noise(0.1, 3), Noise(0.2, 2)
    assert larger(a, b) == larger(b, a) == larger(None, b) == b
    assert larger(None, None) is None
    few, many = Noise(0.19, 1), Noise(0.2, 10)
    assert larger(few, many) == few  # one difference says little: the noise may be ten times that


def test_one_seed_under_two_names_says_nothing_of_noise():
    assert seed_noise([row(), row(run="b")]) is None
