from __future__ import annotations

import pytest

from ling.infer.histogram import Histogram


def test_a_value_on_a_bound_is_below_it_and_larger_ones_are_in_the_last_count():
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 3):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.cumulative() == [2, 3, 4]
    assert (histogram.count, histogram.sum) == (4, pytest.approx(6))
