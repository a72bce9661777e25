"""Drafts from the request's own text: what followed the last tokens where they occurred before.

Known as prompt lookup. Answers that quote their prompt, code above all, repeat long runs of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

NGRAM = 3
"""Tokens that a match has at least."""
CANDIDATES = 8
"""Earlier occurrences that are compared."""
LONGEST = 24
"""Tokens that a match is followed back at most."""
_ID_BITS = 32


class NgramIndex:
    """Where each run of `NGRAM` tokens of a growing list occurred: one entry a token.

    Finding a match takes a bounded number of comparisons, whatever the length of the list.
    """

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}
        # For each position the occurrence before it of the run that ends there; 0 is none.
        self._before = array("i", [0] * NGRAM)

    def extend(self, tokens: Sequence[int], stop: int) -> None:
        """Enter the runs that end before position `stop`; tokens entered earlier are the same."""
        for end in range(len(self._before), stop):
            key = _key(tokens, end)
            self._before.append(self._latest.get(key, 0))
            self._latest[key] = end

    def draft(self, tokens: Sequence[int], most: int) -> tuple[list[int], int]:
        """At most `most` tokens that may follow, and the length of the match before them.

        Of the latest occurrences the one with the longest match counts, of these the latest.
        """
        size = len(tokens)
        self.extend(tokens, size)
        if size < NGRAM:
            return [], 0
        best, longest = 0, NGRAM - 1
        at = self._latest.get(_key(tokens, size), 0)
        for _ in range(CANDIDATES):
            if not at or longest == LONGEST:
                break
            length = _match(tokens, at, size)
            if length > longest:
                best, longest = at, length
            at = self._before[at]
        if not best:
            return [], 0
        # A match that reaches into its own continuation repeats it, as a loop does.
        period = size - best
        return [tokens[best + i % period] for i in range(most)], longest


def _key(tokens: Sequence[int], end: int) -> int:
    key = 0
    for token in tokens[end - NGRAM : end]:
        key = key << _ID_BITS | token
    return key


def _match(tokens: Sequence[int], a: int, b: int) -> int:
    """Equal tokens before positions `a` and `b`, at least `NGRAM`."""
    length = NGRAM
    while length < min(LONGEST, a) and tokens[a - 1 - length] == tokens[b - 1 - length]:
        length += 1
    return length
