"""Best-fit decreasing: which pieces share a row so that few rows hold them, none of them cut.

The longest piece first, each into the row with the least room that takes it. Rows and pieces of
equal length are interchangeable, so the work grows with the number of lengths, not of pieces.
Source: Ding et al., "Fewer truncations improve language modeling" (arXiv 2404.10830).
"""

from __future__ import annotations

import itertools

import numpy as np


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """(row of each piece, number of rows) for pieces of 1 to `capacity`; ties to the first piece.

    Rows are numbered as they are opened, by falling length of their first piece.
    """
    order = np.argsort(-lengths, kind="stable")
    rows = _Rows(capacity)
    row_of = np.empty(len(lengths), np.int64)
    sizes, starts = np.unique(-lengths[order], return_index=True)
    edges = itertools.pairwise([*starts, len(lengths)])
    for size, (start, stop) in zip(-sizes, edges, strict=True):
        rows.put(int(size), row_of_sorted := np.empty(stop - start, np.int64))
        row_of[order[start:stop]] = row_of_sorted
    return row_of, rows.count


class _Rows:
    """Rows by the room that they have left."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.count = capacity, 0
        self._by_room: dict[int, list[np.ndarray]] = {}
        self._rooms = 0  # bit r: some row has room r

    def put(self, size: int, row_of: np.ndarray) -> None:
        """Put pieces of one size, and write the row of each to `row_of`."""
        done = 0
        while done < len(row_of):
            room, rows = self._take(size, len(row_of) - done)
            each = room // size  # a row that took one has the least room for the next
            taken = np.repeat(rows, each)[: len(row_of) - done]
            row_of[done : done + len(taken)] = taken
            done += len(taken)
            full, rest = divmod(len(taken), each)
            self._add(room - each * size, rows[:full])
            if rest:
                self._add(room - rest * size, rows[full : full + 1])
                full += 1
            self._add(room, rows[full:])

    def _take(self, size: int, pieces: int) -> tuple[int, np.ndarray]:
        """Rows with the least room of at least `size`, new ones where there are none."""
        fitting = self._rooms >> size
        if not fitting:
            new = -(-pieces // (self.capacity // size))
            self.count += new
            return self.capacity, np.arange(self.count - new, self.count)
        room = size + (fitting & -fitting).bit_length() - 1
        self._rooms ^= 1 << room
        return room, np.concatenate(self._by_room.pop(room))

    def _add(self, room: int, rows: np.ndarray) -> None:
        if not (len(rows) and room):
            return
        self._by_room.setdefault(room, []).append(rows)
        self._rooms |= 1 << room
