"""Curves, whole and thinned."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ling.train.report.series import Series


def series(values, first=1):
    made = Series()
    for step, value in enumerate(values, first):
        made.add(step, value)
    return made


def test_a_short_curve_is_what_the_log_has():
    values = [1 / 3, math.nan, 2e-9, math.inf]
    assert series(values).thinned(4) == {"x": [1, 2, 3, 4], "y": [0.3333333, None, 2e-9, None]}


def test_a_long_curve_keeps_its_mean_and_every_spike():
    values = np.random.RandomState(0).rand(100_003)
    values[54_321], values[77_777] = 50.0, math.nan
    thin = series(values.tolist()).thinned(500)
    assert [len(thin[key]) for key in ("x", "y", "lo", "hi")] == [500] * 4
    assert thin["x"][-1] == 100_003
    assert max(thin["hi"]) == 50.0
    assert min(thin["lo"]) == pytest.approx(np.nanmin(values), rel=1e-6)
    assert np.mean(thin["y"]) == pytest.approx(np.nanmean(values), rel=1e-4)
    first = values[: thin["x"][0]]
    assert (thin["y"][0], thin["hi"][0]) == pytest.approx((first.mean(), first.max()), rel=1e-6)


def test_a_stretch_without_a_finite_value_is_a_gap():
    thin = series([1.0] * 10 + [math.nan] * 10).thinned(2)
    assert (thin["y"], thin["hi"]) == ([1.0, None], [1.0, None])


def test_what_comes_again_for_a_step_replaces_it_and_all_after():
    made = series([5.0, 4.0, 3.0, 2.0])
    made.add(3, 3.5)
    assert made.thinned(9) == {"x": [1, 2, 3], "y": [5.0, 4.0, 3.5]}


def test_a_band_stays_with_its_values():
    made = Series()
    for step in range(1, 5):
        made.add(step, step, step - 0.5, step + 0.5)
    made.add(4, 8, 7, 9)
    assert made.thinned(4) == {
        "x": [1, 2, 3, 4], "y": [1, 2, 3, 8], "lo": [0.5, 1.5, 2.5, 7], "hi": [1.5, 2.5, 3.5, 9],
    }  # fmt: skip
    assert made.thinned(2) == {"x": [2, 4], "y": [1.5, 5.5], "lo": [0.5, 2.5], "hi": [2.5, 9]}
