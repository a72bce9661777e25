"""Rows of log-probabilities: what they give back, and how little they take."""

from __future__ import annotations

import numpy as np
import pytest

from ling.infer.choice import Chosen, RowChoice
from ling.infer.logprobs import LogprobRows
from ling.infer.sampler import choose


def rows_of(*chosen):
    rows = LogprobRows()
    for c in chosen:
        rows.append(c)
    return rows


def scored(scores, token, k):
    """The entries of a token as the oracle scores them, as (id, rank)."""
    z = np.array(scores, np.float32)
    (row,) = rows_of(choose(z, RowChoice(given=token, num_best=k)))
    want = z - np.log(np.exp(z).sum())
    np.testing.assert_allclose([t.logprob for t in row], [want[t.token_id] for t in row], atol=1e-6)
    return [(t.token_id, t.rank) for t in row]


def test_the_token_is_first_and_equal_ones_rank_by_id():
    scores = [-1.0, -3.0, -1.0, -2.0]
    assert scored(scores, 3, 2) == [(3, 3), (0, 1), (2, 2)]
    assert scored(scores, 2, 0) == [(2, 1)]
    assert [i for i, _ in scored(scores, 1, 4)] == [1, 0, 2, 3]


def test_a_token_among_the_most_likely_is_not_one_more():
    assert scored([0.0, 4.0, 3.0, 2.0], 2, 2) == [(2, 2), (1, 1)]


def chosen(i, k=2):
    best = np.arange(i, i + k, dtype=np.int32)
    return Chosen(i + 50, None, -i / 2, i + 1, best, -best.astype(np.float32))


def test_rows_grow_and_slices_are_copies_that_later_rows_do_not_change():
    rows = rows_of(*(chosen(i) for i in range(100)))
    assert len(rows) == 100
    assert rows[7] == [(57, -3.5, 8), (7, -7.0, 1), (8, -8.0, 2)] == rows[-93]
    part = rows[98:]
    rows.append(chosen(100))
    assert [row[0].token_id for row in part] == [148, 149]
    assert rows[98:100][1] == part[1]
    part.append_row(rows, 3)
    assert list(part)[-1] == rows[3]
    np.testing.assert_array_equal(part.own(), np.float32([-49, -49.5, -1.5]))
    with pytest.raises(IndexError):
        rows[101]


def test_rows_take_little_more_than_their_numbers():
    rows = rows_of(*(chosen(i, k=20) for i in range(1000)))
    held = sum(a.nbytes for a in (rows._ids, rows._logprobs, rows._ranks))
    assert held < 1.6 * 1000 * (8 * 21 + 4)
    assert len(LogprobRows()) == 0
    assert list(LogprobRows()[3:]) == []
