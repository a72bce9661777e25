"""The best size of each budget."""

from __future__ import annotations

import dataclasses

from scaling_rows import row, sweep

from ling.scaling.frontier import fitted_frontier, frontier


def test_the_middle_size_is_best_and_its_seeds_are_averaged():
    rows = sweep(families=("dense",), sigma=0.002, seeds_at=1e14)
    found = frontier(rows)
    assert [p.target_flops for p in found] == [1e13, 3e13, 1e14]
    assert [p.size[0] for p in found] == ["m", "m", "m"]
    assert not any(p.is_edge for p in found)
    seeds = [r.loss for r in rows if r.run in found[-1].runs]
    assert len(seeds) == 2
    assert found[-1].loss == sum(seeds) / 2


def test_sizes_are_moved_along_the_means_of_seeds():
    """With the head `s` costs more. How much that is worth is read from the means of seeds: by the
    lucky second seed of the larger budget it would be so much that `l` was better."""
    rows = [
        row(run="s", size="s", loss=4.000, flops=1e13, flops_with_head=1.5e13, tokens=20_000_000),
        row(run="l", size="l", loss=4.010, flops=1e13, flops_with_head=1.4e13, tokens=10_000_000),
        row(run="a", size="l", loss=3.96, target_flops=1e14, flops_with_head=1.5e14),
        row(run="b", size="l", loss=3.56, target_flops=1e14, flops_with_head=1.5e14, seed=1),
    ]
    assert frontier(rows, with_head=True)[0].size == "s"


def test_a_best_size_at_an_end_is_told():
    rows = [r for r in sweep(families=("dense",)) if r.size[0] != "l"]
    assert all(p.is_edge for p in frontier(rows))


def test_with_the_head_a_size_that_pays_less_for_it_can_be_best():
    rows = [
        row(run=f"{size}-{flops:.0e}", size=size, loss=loss, tokens=tokens, target_flops=flops)
        for flops, times in ((1e13, 1), (1e14, 10))
        for size, loss, tokens in (
            ("s", 4.00 - 0.4 * (flops > 1e13), times * 20_000_000),
            ("l", 4.01 - 0.4 * (flops > 1e13), times * 10_000_000),
        )
    ]
    rows = [
        dataclasses.replace(
            r, flops=r.target_flops, flops_with_head=r.target_flops + r.tokens * 500_000.0
        )
        for r in rows
    ]
    assert [p.size for p in frontier(rows)] == ["s", "s"]
    assert [p.size for p in frontier(rows, with_head=True)] == ["l", "l"]


def test_held_out_runs_are_not_fitted_but_whole_budgets_are_there_to_predict():
    rows = sweep(families=("dense",))
    marked = [
        dataclasses.replace(r, held_out=r.target_flops == 1e14 or r.size == "m3e+13") for r in rows
    ]
    found = fitted_frontier(marked)
    assert [p.held_out for p in found] == [False, False, True]
    assert found[1].size != "m3e+13"
    assert frontier(marked)[1].size == "m3e+13"
