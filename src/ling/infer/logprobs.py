"""Log-probabilities of tokens: the token's own and the most likely ones, never a vocabulary row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np

from .choice import NO_IDS, NO_VALUES, Chosen


class TokenLogprob(NamedTuple):
    """A token, its log-probability, and its rank (1 is most likely)."""

    token_id: int
    logprob: float
    rank: int


class LogprobRows(Sequence[list[TokenLogprob]]):
    """Log-probabilities of consecutive tokens, k + 1 entries each: the token first, then the k most
    likely ids. Takes 8 (k + 1) + 4 bytes a token.
    """

    __slots__ = ("_ids", "_len", "_logprobs", "_ranks")

    def __init__(self) -> None:
        self._ids, self._logprobs = NO_IDS.reshape(0, 0), NO_VALUES.reshape(0, 0)
        self._ranks, self._len = NO_IDS, 0

    def append(self, chosen: Chosen) -> None:
        """Add a token with its log-probabilities."""
        row = self._add(len(chosen.best_ids) + 1)
        self._ids[row, 0], self._logprobs[row, 0] = chosen.token_id, chosen.logprob
        self._ids[row, 1:], self._logprobs[row, 1:] = chosen.best_ids, chosen.best_logprobs
        self._ranks[row] = chosen.rank

    def append_row(self, rows: LogprobRows, i: int) -> None:
        """Add row `i` of others with as many entries."""
        row = self._add(rows._ids.shape[1])
        self._ids[row], self._logprobs[row] = rows._ids[i], rows._logprobs[i]
        self._ranks[row] = rows._ranks[i]

    def _add(self, width: int) -> int:
        if self._len == len(self._ranks):
            self._grow(width)
        self._len += 1
        return self._len - 1

    def _grow(self, width: int) -> None:
        # Readers in other threads see the old arrays or the new ones, which have the same rows.
        size = max(4, self._len + self._len // 2)
        for name in ("_ids", "_logprobs", "_ranks"):
            old = getattr(self, name)
            new = np.empty((size,) if old.ndim == 1 else (size, width), old.dtype)
            if self._len:
                new[: self._len] = old[: self._len]
            setattr(self, name, new)

    def __len__(self) -> int:
        return self._len

    @overload
    def __getitem__(self, at: int) -> list[TokenLogprob]: ...
    @overload
    def __getitem__(self, at: slice) -> LogprobRows: ...
    def __getitem__(self, at: int | slice) -> list[TokenLogprob] | LogprobRows:
        if isinstance(at, slice):
            return self._copied(at)
        if not -self._len <= at < self._len:
            raise IndexError(at)
        at %= self._len
        ids, logprobs = self._ids[at].tolist(), self._logprobs[at].tolist()
        ranks = {ids[0]: (logprobs[0], int(self._ranks[at]))}
        for rank, (i, logprob) in enumerate(zip(ids[1:], logprobs[1:], strict=True), 1):
            ranks.setdefault(i, (logprob, rank))
        return [TokenLogprob(i, *entry) for i, entry in ranks.items()]

    def __iter__(self) -> Iterator[list[TokenLogprob]]:
        return (self[i] for i in range(self._len))

    def _copied(self, at: slice) -> LogprobRows:
        rows = LogprobRows()
        for name in ("_ids", "_logprobs", "_ranks"):
            setattr(rows, name, getattr(self, name)[: self._len][at].copy())
        rows._len = len(rows._ranks)
        return rows

    def own(self) -> np.ndarray:
        """Log-probabilities (float32) of the tokens themselves."""
        return self._logprobs[: self._len, 0].copy() if self._len else NO_VALUES
