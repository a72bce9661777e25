"""Prompt lookup against a plain search through the whole text."""

from __future__ import annotations

import random

import pytest

from ling.infer.ngram import CANDIDATES, LONGEST, NGRAM, NgramIndex


def oracle(tokens, most):
    """The latest of the longest matches, found by comparing every position."""
    size, best, longest = len(tokens), 0, NGRAM - 1
    occurrences = [
        at for at in range(NGRAM, size) if tokens[at - NGRAM : at] == tokens[size - NGRAM :]
    ]
    for at in occurrences[::-1][:CANDIDATES]:
        length = NGRAM
        while length < min(LONGEST, at) and tokens[at - length - 1] == tokens[size - length - 1]:
            length += 1
        if length > longest:
            best, longest = at, length
    if not best:
        return [], 0
    text = list(tokens)
    while len(text) < size + most:  # what was drafted counts as text
        text.append(text[best + len(text) - size])
    return text[size:], longest


@pytest.mark.parametrize("seed", range(20))
def test_drafts_are_those_of_a_search_through_the_text(seed):
    rng, index, tokens = random.Random(seed), NgramIndex(), []
    for _ in range(300):
        piece = [rng.randrange(3 + seed) for _ in range(rng.randint(1, 4))]
        if len(tokens) > 20 and rng.random() < 0.5:
            start = rng.randrange(len(tokens) - 10)
            piece = tokens[start : start + rng.randint(3, 40)]
        tokens += piece
        assert index.draft(tokens, 6) == oracle(tokens, 6)


def test_a_repeated_token_repeats():
    assert NgramIndex().draft([1, 2, 9, 9, 9, 9], 5) == ([9] * 5, 3)


def test_short_texts_and_new_ones_give_nothing():
    for tokens in ([], [1], [1, 1, 1], list(range(50))):
        assert NgramIndex().draft(tokens, 4) == ([], 0)


def test_the_index_takes_one_entry_a_token_and_finds_by_a_few_comparisons():
    index, tokens = NgramIndex(), [7] * 5000
    index.extend(tokens, 5000)
    assert len(index._before) == 5000
    assert len(index._latest) == 1

    class Counted(list):
        reads = 0

        def __getitem__(self, i):
            Counted.reads += 1
            return super().__getitem__(i)

    counted = Counted(tokens)
    index.draft(counted, 4)
    assert Counted.reads <= CANDIDATES * 2 * LONGEST + 10
