"""The page says what was found, what was not, and where the claim belongs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from scaling_rows import row, sweep

from ling.scaling.fit import fit
from ling.scaling.page import _around, page, table

pytest.importorskip("scipy")


@pytest.fixture(autouse=True)
def _few_replicas(monkeypatch):
    monkeypatch.setattr("ling.scaling.noise.REPLICAS", 40)


def test_a_whole_sweep():
    rows = sweep(sigma=0.01, seed=1, seeds_at=1e14, rates_at=3e13, best_factor=1.3)
    rows.append(dataclasses.replace(rows[0], run="gone", status="diverged", loss=None))
    found = fit(rows, "largest")
    text = page(found, "results.jsonl", {"loss": Path("/x/scaling-loss.png")})
    assert "| gone | diverged |" in text
    assert "](scaling-loss.png)" in text
    assert "how leverage changes" in text
    assert "scaling-lr.png" not in text
    assert "claim of 7 times belongs to 1e22 FLOPs (the law gives 7.24" in text
    assert "Compute with the head" in text
    assert "nothing is extrapolated" in text
    for run in {r.run for r in rows} - {"gone"}:
        assert text.count(f"| {run} |") >= 1
    read = found.counts["without_head"].leverage.read[0]
    assert f"| {read.leverage:.2f} |" in text
    inside = sum(bool(p.is_inside) for p in found.predictions if p.by == "power law")
    assert f"The power law predicts {'' if inside == 3 else '**'}{inside} of 3" in text
    assert f"varies by {found.noise.sigma:.4f} nats from seed to seed" in text
    assert "smaller budgets" not in text


def test_a_fit_that_does_not_predict_says_so():
    rows = [
        dataclasses.replace(r, loss=r.loss + 0.3) if r.target_flops == 1e14 else r
        for r in sweep(sigma=0.01, seed=1, seeds_at=1e14, families=("dense",))
    ]
    text = page(fit(rows, "largest"), "results.jsonl", {})
    assert "The power law predicts **0 of 1** inside its own uncertainty." in text
    assert "| **no** |" in text


def test_a_budget_that_other_fits_see_is_not_called_held_out():
    rows = [
        dataclasses.replace(r, held_out=r.size == "l1e+14")
        for r in sweep(sigma=0.01, seed=1, seeds_at=1e14, families=("dense",))
    ]
    text = page(fit(rows), "results.jsonl", {})
    assert "The power law of 2 smaller budgets predicts" in text
    assert "the other fits see that budget" in text


def test_intervals_that_are_not_known_are_explained():
    rows = sweep(sigma=0.01, seed=1, seeds_at=1e14, rates_at=3e13, best_factor=1.3)
    apart = {r.run: 0.5 for r in rows if r.seed == 1 and r.family == "dense"}
    rows = [dataclasses.replace(r, loss=r.loss + apart.get(r.run, 0)) for r in rows]
    found = fit(rows)
    assert any(r.leverage_interval is None for r in found.counts["without_head"].leverage.read)
    text = page(found, "results.jsonl", {})
    assert "An interval is unknown where losses vary so much" in text
    assert "| ≤ 0.50 to ≥ 2.00 |" in text


def test_one_run_says_what_is_missing():
    text = page(fit([row()]), "results.jsonl", {})
    assert "not fitted, 1 of 2 budgets" in text
    assert "was not fitted: 1 runs to fit" in text
    assert "there is no mixture of experts to compare with" in text
    assert "the noise of a loss is not known" in text
    assert "An interval is unknown" not in text
    assert "how leverage changes" not in text
    assert "None that a fit could predict" in text


def test_a_family_without_predictions_is_named():
    rows = [
        dataclasses.replace(r, held_out=r.family == "1/8" or r.size == "l1e+14")
        for r in sweep(sigma=0.01, seed=1, seeds_at=1e14, families=("dense", "1/8"))
    ]
    assert "No fit could predict a held-out run of `1/8`." in page(fit(rows), "r.jsonl", {})


def test_an_end_that_prints_as_a_limit_of_what_was_tried_is_marked():
    """A search inside limits comes near them, and not there."""
    assert _around((0.1, 2.99996), limits=(0.0, 3.0)) == "0.100 to ≥ 3.000"
    assert _around((0.0002, 2.9), limits=(0.0, 3.0)) == "≤ 0.000 to 2.900"
    assert _around((0.0002, 2.9)) == "0.000 to 2.900"
    assert _around(None) == "unknown"


def test_table():
    assert table(["a", "b"], [("1", "2")]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
