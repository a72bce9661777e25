"""Best-fit decreasing against a plain loop over pieces and rows."""

from __future__ import annotations

import numpy as np
import pytest

from ling.data.best_fit import best_fit


def plain(lengths, capacity):
    """Room left of each row, one piece after the other."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [k for k, room in enumerate(rooms) if room >= length]
        if not fitting:
            rooms.append(capacity)
            fitting = [len(rooms) - 1]
        rooms[min(fitting, key=lambda k: rooms[k])] -= length
    return sorted(rooms)


@pytest.mark.parametrize("capacity", [1, 7, 40, 129])
@pytest.mark.parametrize("seed", range(6))
def test_rows_have_the_room_that_a_plain_loop_leaves(capacity, seed):
    rng = np.random.RandomState(seed)
    lengths = np.minimum(rng.geometric(rng.choice([0.02, 0.1, 0.5]), 400), capacity)
    row_of, rows = best_fit(lengths, capacity)
    filled = np.bincount(row_of, lengths, rows)
    assert sorted(capacity - filled.astype(int)) == plain(lengths.tolist(), capacity)


def test_no_pieces_make_no_rows():
    row_of, rows = best_fit(np.empty(0, np.int64), 9)
    assert (len(row_of), rows) == (0, 0)


def test_equal_pieces_fill_rows_in_their_order():
    row_of, rows = best_fit(np.array([3] * 7), 9)
    assert (row_of.tolist(), rows) == ([0, 0, 0, 1, 1, 1, 2], 3)
