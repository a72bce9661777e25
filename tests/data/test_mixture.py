"""Rows of several sources: Megatron's rule, without going through all rows before."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ling.data.index_files import IndexFolder
from ling.data.mixture import BLOCK, Mixture, taken_by_block
from ling.errors import UsageError

WEIGHTS = [
    [1.0],
    [3.0, 1.0],
    [1.0, 1.0, 1.0],
    [0.5, 0.3, 0.2],
    [1e-4, 1.0, 0.3, 1.0],
    [1e-6, 1.0, 1.0, 5.0],
    [float(w) for w in np.random.RandomState(3).rand(12)],
    [float(2**-k) for k in range(20)],
]


def greedy(weights, left, size):
    """Megatron's loop over all rows: (source, row of it)."""
    share, taken, found = [w / sum(weights) for w in weights], [0] * len(weights), []
    for i in range(size):
        best = max(range(len(share)), key=lambda k: share[k] * max(i, 1) - taken[k])
        if taken[best] == left[best]:
            break
        found.append((best, taken[best]))
        taken[best] += 1
    return found


@pytest.mark.parametrize("weights", WEIGHTS, ids=len)
def test_each_row_is_that_of_the_loop_over_all_rows_before(weights):
    size = 5 * BLOCK + 7
    want = greedy(weights, [size] * len(weights), size)
    mixture = Mixture([range(size)] * len(weights), weights, size)
    assert len(mixture) == size
    assert [mixture.source_of(i) for i in range(size)] == want
    some = np.random.RandomState(0).randint(0, size, 40).tolist()  # in any order
    assert [mixture.source_of(i) for i in some] == [want[i] for i in some]
    assert [mixture[i] for i in some] == [want[i][1] for i in some]
    for rows in (0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5, size):
        sources = [source for source, _ in want[:rows]]
        assert mixture.taken(rows) == [sources.count(k) for k in range(len(weights))]


@pytest.mark.parametrize("left", [[10, 100], [100, 10], [3000, 90000], [90000, 2], [0, 5]])
def test_a_mixture_ends_where_a_source_has_no_row_left(left):
    want = greedy([1.0, 2.0], left, sum(left))
    mixture = Mixture([range(n) for n in left], [1.0, 2.0])
    assert len(mixture) == len(want)
    assert mixture.taken(len(want)) == [sum(s == k for s, _ in want) for k in (0, 1)]
    with pytest.raises(IndexError):
        mixture[len(want)]


def test_a_whole_number_of_blocks_has_an_end():
    mixture = Mixture([range(9999)] * 2, [1, 1], 2 * BLOCK)
    assert len(mixture) == 2 * BLOCK
    assert mixture.taken(2 * BLOCK) == [BLOCK, BLOCK]


def test_shares_are_those_of_the_weights():
    mixture = Mixture([range(400)] * 2, [3, 1], 100)
    assert mixture.taken(100) == [75, 25]


def test_what_was_taken_is_kept_in_files(tmp_path):
    for _ in range(2):
        index = IndexFolder(tmp_path)
        mixture = Mixture([range(9000)] * 3, [5, 2, 1], 9000, index)
        assert mixture.taken(8000) == [5000, 2000, 1000]
    assert len(list(tmp_path.glob("*/taken"))) == 1


def test_a_hundred_million_rows_are_laid_out_in_less_than_100_seconds():
    rows = 4_000_000
    start = time.process_time()
    last = list(taken_by_block([0.42, 0.3, 0.15, 0.08, 0.05], rows))[-1][-1]
    assert abs(last - np.array([0.42, 0.3, 0.15, 0.08, 0.05]) * last.sum()).max() < 2
    assert time.process_time() - start < 4  # 1M rows a second


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, float("nan")], [1, -1]])
def test_weights_that_make_no_mixture_are_refused(weights):
    with pytest.raises(UsageError, match="weights"):
        Mixture([range(2), range(2)], weights)
