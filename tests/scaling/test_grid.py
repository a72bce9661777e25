"""A grid and the runs that it comes to."""

from __future__ import annotations

import pytest
from small_grids import EXPERTS, SHAPE

from ling.errors import UsageError
from ling.scaling.grid import (
    Extra,
    Family,
    Grid,
    GridData,
    GridTraining,
    HeldOut,
    Size,
    budget_name,
)


def grid(**changes):
    return Grid(
        **{
            "budgets": {"1e9": ["a", "b"], "3e8": ["a"]},
            "sizes": {"a": Size(**SHAPE), "b": Size(**SHAPE)},
            "families": {"dense": Family(), "1/4": Family(**EXPERTS)},
            "data": GridData(corpus=["stdlib"]),
            **changes,
        }
    )


def names(**changes):
    return [run.name for run in grid(**changes).runs()]


def test_runs_are_budgets_by_sizes_by_families_cheapest_first():
    assert names() == [
        "3e8-a-dense-seed1",
        "3e8-a-1of4-seed1",
        "1e9-a-dense-seed1",
        "1e9-a-1of4-seed1",
        "1e9-b-dense-seed1",
        "1e9-b-1of4-seed1",
    ]


def test_extra_runs_follow_those_of_their_budget_and_none_is_there_twice():
    extra = [
        Extra(budget="3e8", size="a", families=["dense"], seeds=[1, 2]),
        Extra(budget="3e8", size="a", families=["1/4"], lr_factors=[0.5, 1]),
    ]
    assert names(extra=extra)[:5] == [
        "3e8-a-dense-seed1",
        "3e8-a-1of4-seed1",
        "3e8-a-dense-seed2",
        "3e8-a-1of4-lr0.5-seed1",
        "1e9-a-dense-seed1",
    ]
    assert len(names(extra=extra)) == 8


def test_held_out_are_all_that_an_entry_describes():
    found = grid(held_out=[HeldOut(size="b"), HeldOut(budget="3e8", family="1/4")]).runs()
    assert [run.name for run in found if run.held_out] == [
        "3e8-a-1of4-seed1",
        "1e9-b-dense-seed1",
        "1e9-b-1of4-seed1",
    ]


@pytest.mark.parametrize(
    ("text", "name"), [("1e14", "1e14"), ("1.0e+13", "1e13"), ("250000000.0", "2.5e8")]
)
def test_a_budget_has_one_name(text, name):
    assert budget_name(text) == name


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"budgets": {"many": ["a"]}}, "`budgets` has `many`, expected FLOPs"),
        ({"budgets": {"1e9": ["bb"]}}, "`budgets.1e9` names `bb` .did you mean `b`"),
        ({"extra": [Extra(budget="2e9", size="a")]}, "`extra.0..budget` names `2e9`"),
        ({"held_out": [HeldOut(family="1/5")]}, "`held_out.0..family` names `1/5`"),
        ({"families": {"dense": Family(), "../x": Family()}}, "`families` has `../x`"),
        ({"sizes": {"../x": Size(**SHAPE)}}, "`sizes` has `../x`"),
        ({"sizes": {"a": Size(**SHAPE | {"hidden_size": 0})}}, "`sizes.a.hidden_size` is 0"),
        ({"sizes": {"a": Size(**SHAPE | {"num_attention_heads": 0})}}, "_heads` is 0"),
        ({"sizes": {"a": Size(**SHAPE | {"num_attention_heads": 3})}}, "= 32 is not a multiple"),
        ({"extra": [Extra(budget="1e9", size="a", lr_factors=[2, 0])]}, "`extra.0..lr_factors` h"),
        ({"mlp_ratio": 3.0}, "`families.1/4`: a token uses experts of 2 hidden sizes"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(changes, line):
    with pytest.raises(UsageError, match=line):
        grid(**changes)


@pytest.mark.parametrize(
    ("kind", "values", "line"),
    [
        (GridData, {"corpus": ["x"], "seq_length": 0}, "`data.seq_length` is 0"),
        (GridData, {"corpus": ["x"], "corpus_bytes": -1}, "`data.corpus_bytes` is -1"),
        (GridData, {"corpus": ["x"], "valid_fraction": 2.0}, "`data.valid_fraction` is 2.0"),
        (GridTraining, {"init_scale": 0.0}, "`training.init_scale` is 0.0"),
        (GridTraining, {"warmup_share": 0.9, "decay_share": 0.9}, "more than all steps"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused(kind, values, line):
    with pytest.raises(UsageError, match=line):
        kind(**values)


def test_two_runs_of_one_folder_are_refused_and_one_run_twice_is_not():
    families = {"1/4": Family(**EXPERTS), "1of4": Family(**EXPERTS | {"num_experts": 3})}
    with pytest.raises(UsageError, match="two runs have the name `3e8-a-1of4-seed1`"):
        names(families=families)
    assert len(names(budgets={"1e9": ["a"], "1.0e9": ["a", "b"]})) == 4
