"""The batch-size ramp: Megatron-LM's rule, as a pure function of the step."""

from __future__ import annotations

import itertools

import pytest

from ling.config.batch_ramp import batch_size, check_ramp, phases, rows_after
from ling.errors import UsageError


def megatron(ramp, final, steps):
    """Batches of its `RampupBatchsizeNumMicroBatchesCalculator`, step by step."""
    start, increment, samples = ramp
    per_increment = samples / ((final - start) // increment)
    consumed, found = 0, []
    for _ in range(steps):
        batch = final
        if consumed <= samples:
            batch = start + int(consumed / per_increment) * increment
        found.append(batch)
        consumed += batch
    return found


@pytest.mark.parametrize(
    ("ramp", "final"),
    [
        ((2, 2, 24), 8),
        ((16, 8, 3000), 128),
        ((1, 1, 16), 17),
        ((64, 64, 128), 512),  # several increments within one step
        ((100, 100, 1), 200),
        ((3024, 3024, 100_000), 18144),
    ],
)
def test_batches_are_those_of_megatron(ramp, final):
    found = phases(ramp, final)
    batches = [batch_size(found, n) for n in range(1, 301)]
    assert batches == megatron(ramp, final, 300)
    assert [rows_after(found, n) for n in range(301)] == [sum(batches[:n]) for n in range(301)]
    assert found[-1].batch == final
    assert all(a.batch < b.batch for a, b in itertools.pairwise(found))


def test_without_a_ramp_every_step_has_the_same_rows():
    found = phases(None, 12)
    assert [batch_size(found, n) for n in (1, 2, 10**9)] == [12, 12, 12]
    assert [rows_after(found, n) for n in (0, 1, 10**9)] == [0, 12, 12 * 10**9]


@pytest.mark.parametrize(
    ("ramp", "word"),
    [
        ([1, 2], "expected three whole numbers"),
        ([1, 2, 3.5], "expected three whole numbers"),
        ([True, 2, 3], "expected three whole numbers"),
        ([0, 2, 3], "at least 1"),
        ([8, 0, 3], "at least 1"),
        ([16, 4, 100], "16 rows do not reach `train.global_batch_size` = 16"),
        ([6, 4, 100], "in increments of 4"),
        ([4, 4, 2], "3 increments up to 16 rows, the limit is 2 here"),
    ],
)
def test_a_ramp_that_leads_nowhere_is_refused(ramp, word):
    with pytest.raises(UsageError, match=word):
        check_ramp(ramp, 16)


def test_a_ramp_of_many_increments_is_refused_before_it_is_counted():
    with pytest.raises(UsageError, match="the limit is 10000 here"):
        check_ramp([1, 1, 10**12], 10**9)
