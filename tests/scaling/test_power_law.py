"""A known power law comes back, within what the fit says it knows."""

from __future__ import annotations

import numpy as np
import pytest

from ling.scaling.noise import Noise, interval
from ling.scaling.power_law import Points, fit_power_laws

pytest.importorskip("scipy")
EXPONENT, FACTOR = 0.09, 60.0


def losses(flops, sigma, rng):
    return [FACTOR * c**-EXPONENT * np.exp(sigma * rng.standard_normal()) for c in flops]


def test_exact_points_give_the_law():
    flops = [1e13, 3e13, 1e14]
    found = fit_power_laws({"dense": Points(flops, losses(flops, 0, np.random))}, None, np.random)
    law = found["dense"].law
    assert law.exponent == pytest.approx(EXPONENT, rel=1e-6)
    assert law.factor == pytest.approx(FACTOR, rel=1e-4)
    assert found["dense"].noise is None
    assert found["dense"].predict(1e15, np.random.default_rng(0)) is None


@pytest.mark.parametrize("flops", [[1e13, 3e13], [1e13, 3e13, 1e14]])
def test_the_exponent_and_a_new_point_are_inside_the_intervals(flops, monkeypatch):
    """So often as they say, over sweeps with other noise."""
    monkeypatch.setattr("ling.scaling.noise.REPLICAS", 100)
    rng = np.random.default_rng(1)
    hits = {"exponent": 0, "point": 0}
    sweeps = 20
    for _ in range(sweeps):
        sigma = 0.003
        seeds = Noise(4 * sigma * np.sqrt(rng.chisquare(3) / 3), 3)  # nats at a loss of 4
        found = fit_power_laws({"dense": Points(flops, losses(flops, sigma, rng))}, seeds, rng)
        fitted = found["dense"]
        low, high = interval(np.array([law.exponent for law in fitted.replicas]))
        hits["exponent"] += low <= EXPONENT <= high
        low, high = fitted.predict(3e14, rng)
        hits["point"] += low <= losses([3e14], sigma, rng)[0] <= high
    assert all(count >= 0.8 * sweeps for count in hits.values()), hits


def test_points_off_the_form_widen_the_interval():
    flops = [1e13, 3e13, 1e14, 3e14]
    bent = [1.7 + FACTOR * c**-EXPONENT for c in flops]
    bent[1] *= 1.05
    points = {"dense": Points(flops, bent)}
    narrow, wide = Noise(1e-6, 3), fit_power_laws(points, None, np.random.default_rng(0))["dense"]
    assert wide.noise.sigma > 0.01
    assert fit_power_laws(points, narrow, np.random.default_rng(0))["dense"].noise == wide.noise


def test_equal_losses_have_the_exponent_0():
    found = fit_power_laws({"dense": Points([1e13, 1e14], [4.0, 4.0])}, None, np.random)
    assert found["dense"].law.exponent == pytest.approx(0, abs=1e-12)


def test_one_budget_is_told():
    found = fit_power_laws({"dense": Points([1e13], [4.0])}, None, np.random)
    assert found == {"dense": "1 of 2 budgets that a power law needs"}
