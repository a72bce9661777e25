"""The whole fit: what is held out is predicted, and odd sweeps are told about, not fatal."""

from __future__ import annotations

import dataclasses
import json

import pytest
from scaling_rows import row, sweep

from ling.errors import UsageError
from ling.scaling import laws
from ling.scaling.fit import as_dict, fit

pytest.importorskip("scipy")


@pytest.fixture(autouse=True)
def _few_replicas(monkeypatch):
    monkeypatch.setattr("ling.scaling.noise.REPLICAS", 40)


def whole(**changes):
    settings = {"sigma": 0.01, "seed": 1, "seeds_at": 1e14, "rates_at": 3e13, "best_factor": 1.3}
    return sweep(**(settings | changes))


def test_held_out_runs_are_predicted_inside_their_intervals():
    largest = fit(whole(), "largest")
    by = {p.by for p in largest.predictions}
    assert by == {"power law", "surface"}
    inside = [p.is_inside for p in largest.predictions]
    assert sum(inside) >= 0.9 * len(inside)
    assert {p.run for p in largest.predictions if p.by == "surface"} == {
        r.run for r in whole() if r.target_flops == 1e14
    }
    check_report(json.loads(json.dumps(as_dict(largest), allow_nan=False)))


def check_report(found):
    assert found["runs"] == 36
    assert list(found["families"]) == ["dense", "1/8", "1/32"]
    assert found["noise"]["dof"] == 3
    assert found["claim"] == laws.CLAIM
    assert len(found["learning_rates"]) == 3
    for count in found["counts"].values():
        assert count["power_laws"]["dense"]["exponent"] > 0
        assert count["leverage"]
    assert found["surface"]["runs"] == 18


def test_the_largest_budget_is_predicted_from_the_others_where_no_budget_is_held_out():
    rows = whole(families=("dense",))
    rows = [dataclasses.replace(r, held_out=r.size == "l1e+14") for r in rows]
    found = fit(rows).predictions
    assert [(p.by, p.run) for p in found] == [
        ("power law of 2 smaller budgets", "dense-m-1e+14-0-x1 (mean of 2 seeds)"),
        ("surface", "dense-l-1e+14-0-x1"),
    ]
    smaller = [r for r in rows if r.target_flops < 1e14]
    law = fit(smaller).counts["without_head"].power_laws["dense"].law
    assert found[0].predicted == pytest.approx(law.at(1e14), rel=1e-6)


def test_a_budget_with_its_best_size_at_an_end_is_predicted_by_no_law_of_best_sizes():
    """As while a sweep runs: of 1/8 only the held-out size of the largest budget has ended."""
    rows = [
        dataclasses.replace(r, held_out=r.size == "l1e+14")
        for r in whole(families=("dense", "1/8"))
        if not (r.family == "1/8" and r.target_flops == 1e14 and r.size != "l1e+14")
    ]
    found = fit(rows)
    by_law = [p for p in found.predictions if p.by != "surface"]
    assert [(p.by, p.family) for p in by_law] == [("power law of 2 smaller budgets", "dense")]
    assert "no power law predicts `1/8` at 1e14" in " ".join(found.notes)


def test_the_mean_of_two_seeds_is_called_so():
    rows = whole(families=("dense",))
    point = fit(rows).frontier[-1]
    assert len(point.runs) > 1
    assert point.name == f"{point.runs[0]} (mean of {len(point.runs)} seeds)"
    losses = [r.final_loss for r in rows if r.run in point.runs]
    assert point.loss == pytest.approx(sum(losses) / len(losses))


def test_a_wrong_law_does_not_predict():
    """Losses that stop falling at the held-out budget are outside every interval."""
    rows = [
        dataclasses.replace(r, loss=r.loss + 0.3) if r.target_flops == 1e14 else r for r in whole()
    ]
    assert not any(p.is_inside for p in fit(rows, "largest").predictions)


def test_the_same_seed_gives_the_same_report():
    rows = whole(families=("dense",))
    found = as_dict(fit(rows))
    assert found == as_dict(fit(rows))
    assert found["surface"] != as_dict(fit(rows, seed=1))["surface"]


def test_runs_of_other_learning_rates_are_not_fitted():
    rows = whole(families=("dense",), best_factor=4.0)  # ×2 would be better than the grid's own
    frontier = {run for p in fit(rows).frontier for run in p.runs}
    assert not any("x2" in run or "x0.5" in run for run in frontier)


def test_diverged_runs_are_named_and_the_rest_is_fitted():
    rows = whole(families=("dense",))
    rows[0] = dataclasses.replace(rows[0], status="diverged", loss=None)
    found = as_dict(fit(rows))
    assert found["left_out"] == [{"run": rows[0].run, "reason": "diverged"}]
    assert found["runs"] == 11


def test_a_hidden_best_run_is_told():
    rows = whole(families=("dense",))
    rows = [dataclasses.replace(r, held_out=r.size == "m3e+13") for r in rows]
    notes = " ".join(fit(rows).notes)
    assert "the best run is held out" in notes
    assert "`dense` at 3e13" in notes


@pytest.mark.parametrize(
    "rows",
    [
        [row()],
        [row(), row(run="b", target_flops=1e14, tokens=10**8)],
        sweep(families=("dense",)),
        sweep(families=("1/8",)),
        [dataclasses.replace(r, loss=4.0) for r in sweep(seeds_at=1e14, rates_at=3e13)],
        sweep(budgets=(1e13,)),
        [*sweep(), dataclasses.replace(sweep()[1], run="apart", seed=1, loss=4.9)],
        [r for r in sweep() if not (r.family == "dense" and r.target_flops > 1e13)],
    ],
    ids=[
        "one run",
        "two",
        "dense",
        "no dense",
        "all equal",
        "one budget",
        "two seeds far apart",
        "short dense",
    ],
)
@pytest.mark.parametrize("hold_out", ["marked", "largest"])
def test_odd_sweeps_give_a_report(rows, hold_out):
    found = json.loads(json.dumps(as_dict(fit(rows, hold_out)), allow_nan=False))
    assert found["runs"] == len(rows)


def test_without_seeds_uncertainty_is_not_made_up():
    found = fit(sweep(families=("dense", "1/8")), "largest")
    assert found.noise is None
    assert {p.is_inside for p in found.predictions if p.by == "power law"} == {None}
    assert all(r.leverage_interval is None for r in found.counts["with_head"].leverage.read)


def test_nothing_to_fit_is_an_error():
    with pytest.raises(UsageError, match="no run to fit"):
        fit([row(status="diverged", loss=None)])


def test_runs_of_other_learning_rates_alone_are_an_error():
    with pytest.raises(UsageError, match="no run to fit has `lr_factor` 1"):
        fit([row(lr_factor=2.0)])


def test_what_is_missing_is_told():
    families = ("dense", "1/8")
    rows = [
        dataclasses.replace(r, held_out=r.family == "1/8" or r.size == "l1e+14")
        for r in whole(families=families)
    ]
    found = fit(rows)
    assert found.unpredicted == ["1/8"]
    assert found.missing == [
        "no power law of `1/8`: 0 of 2 budgets that a power law needs",
        "no held-out run of `1/8` is predicted",
    ]
    assert fit(whole()).missing == []
