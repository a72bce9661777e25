"""A known surface comes back, within what the fit says it knows."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_rows import TRUTH, row, sweep, true_loss

from ling.scaling.noise import seed_noise
from ling.scaling.surface import _data, _jacobian, _log_loss, fit_surface

pytest.importorskip("scipy")
BUDGETS = (1e13, 1e14, 1e15, 1e16)


def test_exact_runs_give_the_surface():
    rows = sweep(budgets=BUDGETS, families=("dense",))
    found = fit_surface(rows, None, np.random.default_rng(0))
    d = found.as_dict()
    assert (d["irreducible"], d["alpha"], d["beta"]) == pytest.approx(
        (TRUTH["e"], TRUTH["alpha"], TRUTH["beta"]), rel=0.02
    )
    assert d["families"]["dense"]["a"] == pytest.approx(TRUTH["a"], rel=0.15)
    far = row(params_active_no_head=10**7, tokens=10**10)
    assert found.at(far) == pytest.approx(true_loss(10**7, 10**10), rel=0.002)


def test_noisy_runs_give_intervals_that_hold_the_truth(monkeypatch):
    monkeypatch.setattr("ling.scaling.noise.REPLICAS", 100)
    rows = sweep(sigma=0.01, seed=4, budgets=BUDGETS[:3], seeds_at=1e14)
    found = fit_surface(rows, seed_noise(rows), np.random.default_rng(0))
    d = found.as_dict()
    for key, true in (("irreducible", "e"), ("alpha", "alpha"), ("beta", "beta")):
        low, high = d[f"{key}_interval"]
        assert low <= TRUTH[true] <= high, key
        assert high - low < 3
    held_out = row(params_active_no_head=10**6, tokens=10**9)
    low, high = found.predict(held_out, np.random.default_rng(0))
    assert low <= true_loss(10**6, 10**9) <= high


def test_jacobian_is_the_derivative():
    rows = sweep(families=("dense", "1/32"))
    data = _data(rows, ["dense", "1/32"], (1e5, 1e7))
    at = np.array([0.5, 0.3, 0.4, 0.1, 0.2, -0.3, 0.1])
    step = 1e-6 * np.eye(len(at))
    numeric = [(_log_loss(at + s, data) - _log_loss(at - s, data)) / 2e-6 for s in step]
    assert _jacobian(at, data) == pytest.approx(np.array(numeric).T, abs=1e-8)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (sweep(families=("dense",))[:6], "6 runs to fit, 5 parameters need at least 7"),
        ([row(run=str(n), tokens=10**7 + n) for n in range(9)], "one number of sizes"),
    ],
)
def test_too_little_is_told(rows, reason):
    assert reason in fit_surface(rows, None, np.random.default_rng(0))
