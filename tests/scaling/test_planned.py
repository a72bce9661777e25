"""Shapes, numbers and recipes of runs."""

from __future__ import annotations

import pytest
from small_grids import SHAPE, write_grid

from ling.errors import UsageError
from ling.scaling.grid_file import read_grid
from ling.scaling.laws import activation_ratio, allocation, granularity
from ling.scaling.planned import Prefixes, planned_runs

DATA = Prefixes(["train"], "valid", "tokenizer")


@pytest.fixture(scope="module")
def runs():
    return {run.name: run for run in planned_runs(read_grid("ling-grid"))}


def test_the_packaged_grid_is_that_of_the_published_page(runs):
    assert len(runs) == 36
    assert sum(run.flops for run in runs.values()) == pytest.approx(1.74e15, rel=0.01)
    assert sum(run.spec.held_out for run in runs.values()) == 3
    specs = [run.spec for run in runs.values()]
    main = {(s.budget, s.size) for s in specs if (s.seed, s.lr_factor) == (1, 1)}
    sizes = {"1e13": ("xs", "s", "m"), "3e13": ("xs", "s", "m"), "1e14": ("s", "m", "l")}
    assert main == {(budget, size) for budget in sizes for size in sizes[budget]}
    assert {(s.budget, s.size) for s in specs if s.seed == 2} == {("1e14", "m")}
    rates = {(s.budget, s.size, s.lr_factor) for s in specs if s.lr_factor != 1}
    assert rates == {("3e13", "s", 0.5), ("3e13", "s", 2.0)}
    assert {s.size for s in specs if s.held_out} == {"l"}


def test_each_run_comes_near_its_budget(runs):
    for run in runs.values():
        assert run.flops == pytest.approx(run.spec.flops, rel=0.001)
        assert run.flops_with_head > run.flops


def test_families_of_one_size_differ_in_experts_only(runs):
    dense, eighth, sparse = (
        runs[f"1e13-m-{name}-seed1"].config for name in ("dense", "1of8", "1of32")
    )
    assert (activation_ratio(eighth), activation_ratio(sparse)) == (1 / 8, 1 / 32)
    assert granularity(eighth) == granularity(sparse) == 4
    used = eighth.num_experts_per_tok * eighth.moe_intermediate_size + eighth.shared_expert_width
    assert used == dense.intermediate_size
    assert dense.hidden_size == sparse.hidden_size
    assert not any(dense.is_moe_layer(n) for n in range(dense.num_hidden_layers))
    assert all(sparse.is_moe_layer(n) for n in range(sparse.num_hidden_layers))


@pytest.mark.parametrize("budget", ["1e13", "3e13", "1e14"])
@pytest.mark.parametrize("family", ["dense", "1of8", "1of32"])
def test_the_laws_best_size_lies_between_those_of_its_budget(runs, budget, family):
    here = [r for r in runs.values() if r.name.startswith(f"{budget}-") and f"-{family}-" in r.name]
    found = [run.token_flops.without_head for run in here]
    best = allocation(
        float(budget), "moe" if here[0].config.num_experts else "dense"
    ).flops_per_token
    assert min(found) < best < max(found)


def test_learning_rate_and_batch_are_the_laws_times_the_factor(runs):
    run, half = runs["3e13-s-dense-seed1"], runs["3e13-s-dense-lr0.5-seed1"]
    assert run.lr == pytest.approx(1.1576 * 3e13**-0.1529, rel=1e-3)
    assert half.lr == pytest.approx(run.lr / 2, rel=1e-3)
    assert half.batch_rows == run.batch_rows == round(0.0694 * 3e13**0.3644 / 128)


def test_the_recipe_is_one_of_pretrain(runs):
    recipe = runs["1e14-m-1of32-seed2"].recipe(DATA)
    assert recipe.train.seed == 2
    assert recipe.train.micro_batch_size == recipe.train.global_batch_size == 69
    assert recipe.optim.schedule == "wsd"
    assert recipe.optim.decay_steps == round(0.2 * recipe.train.steps)
    assert recipe.data.prefix == ["train"]


def test_a_large_batch_is_cut_into_equal_passes(tmp_path):
    from small_grids import write_grid

    training = {"batch_tokens": 64 * 11, "max_batch_rows": 4, "lr": 0.01}
    run = planned_runs(read_grid(write_grid(tmp_path / "g.yaml", training=training)))[0]
    train = run.recipe(DATA).train
    assert (train.global_batch_size, train.micro_batch_size) == (12, 4)


def test_a_budget_of_no_step_is_refused_by_its_run(tmp_path):
    grid = read_grid(write_grid(tmp_path / "g.yaml", budgets={"1e4": ["a"]}))
    expected = r"run `1e4-a-.*`: a step takes .* FLOPs, more than its budget of 1e\+04"
    with pytest.raises(UsageError, match=expected):
        planned_runs(grid)


def test_a_shape_that_cannot_be_is_refused_by_its_run(tmp_path):
    sizes = {"a": SHAPE | {"num_key_value_heads": 0}}
    with pytest.raises(UsageError, match=r"run `1e9-a-.*-seed1`: `num_key_value_heads` is 0"):
        planned_runs(read_grid(write_grid(tmp_path / "g.yaml", sizes=sizes)))
