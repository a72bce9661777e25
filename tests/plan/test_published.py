"""The published throughput: how near a plan comes with one set of constants, and its page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ling.plan.constants import ASSUMED
from ling.plan.published import (
    CELLS,
    LLAMA,
    OTHERS,
    QWEN,
    errors,
    model_of,
    planned,
    recipe_of,
    rms,
)
from ling.plan.shape import shape_of
from ling.plan.table import published_page

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "throughput.md"


def test_one_set_of_constants_reproduces_the_table():
    found = errors()
    assert len(found) == 12
    assert rms(found) <= 0.05
    assert max(map(abs, found)) <= 0.08


def test_the_constants_are_those_that_fit_best():
    best = rms(errors())
    for name in ("gemm_share", "stream_share", "expert_share_by_rows"):
        for factor in (0.96, 1.04):
            was = getattr(ASSUMED, name)
            is_number = isinstance(was, float)
            changes = {name: factor * was if is_number else {4096: factor * was[4096]}}
            if name == "gemm_share":
                changes["attention_share"] = factor * ASSUMED.attention_share
            assert rms(errors(dataclasses.replace(ASSUMED, **changes))) > best


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.text)
def test_other_assumptions_fit_nearly_as_well_with_the_constants_told(other):
    assert rms(other.errors()) < 1.1 * rms(errors())


def test_the_micro_batch_changes_no_figure():
    for cell in (CELLS[0], CELLS[-1]):
        recipe = recipe_of(cell)
        train = dataclasses.replace(recipe.train, micro_batch_size=4)
        other = planned(cell, recipe=dataclasses.replace(recipe, train=train))
        assert other.tokens_per_s == pytest.approx(planned(cell).tokens_per_s, rel=1e-3)


def test_the_dense_models_have_the_sizes_of_their_cards():
    assert shape_of(model_of(LLAMA), 8192).parameters == 8_030_261_248
    assert shape_of(model_of(QWEN), 8192).parameters == 8_190_735_360


def test_mtp_and_recomputation_cost_what_the_table_says():
    with_mtp, without = (planned(c).tokens_per_s for c in (CELLS[6], CELLS[9]))
    assert with_mtp / without == pytest.approx(0.854, abs=0.07)


def test_the_page_is_what_the_command_writes():
    assert PAGE.read_text("utf-8") == published_page(), (
        "write it again: ling plan --published > docs/evidence/throughput.md"
    )
