"""Expert loads over spans of steps."""

from __future__ import annotations

import numpy as np
import pytest

from ling.train.loads import LoadMap


@pytest.mark.parametrize("steps", [1, 7, 48, 49, 1000])
def test_loads_of_all_steps_are_in_few_spans(steps):
    loads = LoadMap(24)
    for step in range(1, steps + 1):
        loads.add(step, {"1": [1, 0], "2": [step, 1]})
    total = np.sum(loads.counts, axis=0)
    assert total.tolist() == [[steps, 0], [steps * (steps + 1) / 2, steps]]
    assert 1 <= len(loads.spans) <= 48
    assert (loads.spans[0][0], loads.spans[-1][1]) == (1, steps)
    assert all(a[1] + 1 == b[0] for a, b in zip(loads.spans, loads.spans[1:], strict=False))
    few = loads.merged(5)
    assert len(few.spans) <= 5
    assert np.array_equal(np.sum(few.counts, axis=0), total)
    assert len(loads.spans) == len(loads.counts)  # as it was


def test_loads_after_a_step_back_replace_those_before():
    loads = LoadMap()
    for step in (1, 2, 3, 2):
        loads.add(step, {"1": [step, 1]})
    assert loads.spans == [(1, 1), (2, 2)]


def test_no_step_counts_twice_when_the_run_went_back_into_a_span():
    loads = LoadMap(2)
    for step in (*range(1, 8), 4, 5):
        loads.add(step, {"1": [1, step]})
    assert loads.spans == [(1, 2), (4, 5)]
    assert np.sum(loads.counts, axis=0).tolist() == [[4, 12]]


def test_shares_are_multiples_of_the_mean_of_a_layer_and_the_end_is_a_tenth():
    loads = LoadMap(10)
    for step in range(1, 21):
        loads.add(step, {"1": [step, 0], "2": [0, 0]})
    end = loads.at_end()
    assert (end.spans, end.counts[0].tolist()) == ([(19, 20)], [[39, 0], [0, 0]])
    assert end.shares().tolist() == [[[2, 0], [0, 0]]]
    assert loads.shares().shape == (20, 2, 2)


@pytest.mark.parametrize(
    "layer", [[float("nan"), 1], [-1, 1], [float("inf"), 1], ["x", 1], [1], [], 3]
)
def test_what_are_no_counts_is_refused(layer):
    with pytest.raises((ValueError, TypeError)):
        LoadMap().add(1, {"1": layer, "2": [1, 1] if isinstance(layer, list) and layer else layer})
