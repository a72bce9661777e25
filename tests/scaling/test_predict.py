"""A prediction agrees with the laws, and its text with its numbers."""

from __future__ import annotations

import pytest

from ling.presets import preset
from ling.scaling import laws
from ling.scaling.predict import Target, number, predict, report, target_of


def test_budget_and_tokens_of_a_shape_give_each_other():
    target = target_of("ling-mini-2.0", preset("ling-mini-2.0"))
    by_tokens = predict(target, 4096, tokens=2e13)
    by_flops = predict(target, 4096, flops=by_tokens["flops"])
    assert by_flops["chosen"]["tokens"] == pytest.approx(2e13)
    assert by_flops["learning_rate"] == by_tokens["learning_rate"]
    assert by_tokens["learning_rate"] == pytest.approx(3.36e-4, rel=0.002)  # the released model's
    assert by_tokens["batch_sequences"] == pytest.approx(4400, rel=0.04)
    with_head = by_tokens["chosen"]["flops_per_token_with_head"]
    assert with_head == laws.token_flops(preset("ling-mini-2.0"), 4096).with_head


def test_without_a_shape_the_leverage_is_that_of_the_claim():
    found = predict(Target(), 4096, flops=1e22)
    assert found["chosen"] is None
    assert (
        found["leverage"]["value"] == found["claim"]["leverage"] == pytest.approx(7.245, abs=1e-3)
    )
    assert found["leverage"]["dense_flops"] == pytest.approx(7.245e22, rel=1e-3)
    assert "7.24" in report(found)
    assert "the claim of 7 times" not in report(found)
    assert "the claim of 7 times is for 1e22 FLOPs" in report(predict(Target(), 4096, flops=1e14))


def test_tokens_without_a_shape_are_compared_with_the_optimum():
    found = predict(Target(), 4096, flops=1e14, tokens=2e7)
    assert found["chosen"]["flops_per_token"] == 5e6
    assert found["optimal"]["dense"]["tokens"] == pytest.approx(39e6, rel=0.01)


def test_a_dense_shape_has_no_leverage():
    found = predict(target_of("dense-8b", preset("dense-8b")), 4096, flops=1e21)
    assert found["leverage"] is None
    assert "a dense model has none" in report(found)
    assert "learning rate and batch were fitted on mixtures of experts" in report(found)


@pytest.mark.parametrize(
    ("value", "text"), [(1.351e23, "1.35e23"), (3.36e-5, "3.36e-5"), (0.00837, "0.00837"), (7, "7")]
)
def test_number(value, text):
    assert number(value) == text
