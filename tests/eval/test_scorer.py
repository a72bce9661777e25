"""What every scorer is asked in: rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_scorer import ScriptedScorer

from ling.errors import RequestError
from ling.eval.scorer import Row, cut, fitted, pair, rolling


def test_a_context_loses_its_beginning_and_a_continuation_nothing():
    assert fitted(Row([1, 2, 3], [4, 5]), 4) == Row([2, 3], [4, 5])
    assert fitted(Row([1, 2, 3], [4, 5]), 9) == Row([1, 2, 3], [4, 5])
    with pytest.raises(RequestError, match=r"2 tokens to score, .* room for 1"):
        fitted(Row([1], [4, 5]), 2)
    with pytest.raises(RequestError, match="nothing comes before"):
        fitted(Row([], [4]), 2)


def test_spaces_between_belong_to_what_follows():
    scorer = ScriptedScorer()
    assert pair(scorer, "a b ", "c") == Row(list(b"a b"), list(b" c"))
    assert pair(scorer, "", "c") == Row([0], list(b"c"))


@given(st.integers(0, 40), st.integers(2, 12))
def test_each_token_is_scored_once_behind_those_before_it(count, max_length):
    ids = list(range(1, count + 1))
    rows = list(rolling(ids, 0, max_length))
    assert [i for row in rows for i in row.continuation] == ids
    for row in rows:
        assert row.context
        assert len(row.context) + len(row.continuation) <= max_length
        both = row.context + row.continuation
        assert both == list(range(both[0], both[-1] + 1))
    if len(rows) > 1:
        assert len(rows[-1].context) + len(rows[-1].continuation) == max_length


def test_a_text_ends_before_the_first_stop():
    assert cut("a\nb;c", (";", "\n")) == "a"
    assert cut("abc", (";",)) == "abc"
