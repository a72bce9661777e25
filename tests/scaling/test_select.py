"""What is used of the results, and what is told about the rest."""

from __future__ import annotations

import pytest
from scaling_rows import row, sweep

from ling.errors import UsageError
from ling.scaling.select import select


def test_failures_are_left_out_by_name():
    found = select(
        [row(), row(run="b", status="diverged", loss=None), row(run="c", loss=float("nan"))]
    )
    assert [r.run for r in found.rows] == ["a"]
    assert found.left_out == [("b", "diverged"), ("c", "its loss is not a number")]


def test_nothing_left_names_the_runs():
    with pytest.raises(UsageError, match=r"no run to fit: a \(diverged\)"):
        select([row(status="diverged")])


def test_the_same_run_counts_once_and_the_last_wins():
    found = select([row(), row(), row(run="b", loss=4.0), row(run="b", loss=3.0)])
    assert [(r.run, r.loss) for r in found.rows] == [("a", 4.0), ("b", 3.0)]
    assert "run `a` is there 2 times, alike" in found.notes
    assert "run `b` is there 2 times, with other results: the last is used" in found.notes


def test_differences_are_told():
    found = select([row(), row(run="b", commit="def", machine="gpu", valid_tokens=5)])
    assert len(found.rows) == 2
    assert "runs are of 2 commits: abc (1 run), def (1 run)" in found.notes
    assert any("machines" in note for note in found.notes)
    assert any("held-out text" in note for note in found.notes)


def test_families_start_with_dense_and_the_most_active():
    assert select(sweep(families=("1/32", "1/8", "dense"))).families == ["dense", "1/8", "1/32"]


@pytest.mark.parametrize(("hold_out", "expected"), [("marked", 1), ("largest", 3), ("none", 0)])
def test_hold_out(hold_out, expected):
    rows = sweep(families=("dense",))
    rows[0] = row(**{**_fields(rows[0]), "held_out": True})
    assert sum(r.held_out for r in select(rows, hold_out).rows) == expected


def test_one_budget_is_not_held_out():
    found = select(sweep(budgets=(1e13,), families=("dense",)), "largest")
    assert not any(r.held_out for r in found.rows)
    assert "family `dense` has one budget: none of it is held out" in found.notes


def _fields(one):
    import dataclasses

    return dataclasses.asdict(one)
