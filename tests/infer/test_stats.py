from __future__ import annotations

from ling.infer.stats import Stats


def test_rates_are_quotients_of_the_totals():
    stats = Stats(generated=30, seconds=1.5, drafted=8, accepted=6)
    assert stats.tokens_per_s == 20
    assert stats.acceptance == 0.75


def test_nothing_measured_is_no_division_by_zero():
    assert Stats().tokens_per_s == 0
    assert Stats().acceptance is None
    assert Stats(drafted=3).acceptance == 0
