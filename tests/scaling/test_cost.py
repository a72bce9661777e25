"""How long runs should take."""

from __future__ import annotations

import pytest
from scaling_rows import row

from ling.scaling.cost import correction, expected_seconds
from ling.scaling.grid_file import read_grid
from ling.scaling.planned import planned_runs


@pytest.fixture(scope="module")
def runs():
    return planned_runs(read_grid("ling-grid"))


def test_more_compute_and_more_experts_take_longer(runs):
    seconds = {run.name: expected_seconds(run) for run in runs}
    dense, eighth, sparse = (seconds[f"1e13-m-{name}-seed1"] for name in ("dense", "1of8", "1of32"))
    assert dense < eighth < sparse < seconds["3e13-m-1of32-seed1"]


def test_runs_that_ended_correct_the_others(runs):
    assert correction(runs, {}) == 1
    first, second, third = runs[:3]
    rows = {
        first.name: row(run=first.name, seconds=3 * expected_seconds(first)),
        second.name: row(run=second.name, seconds=3 * expected_seconds(second)),
        third.name: row(run=third.name, seconds=0.1, status="diverged", loss=None),
    }
    assert correction(runs, rows) == pytest.approx(3)
