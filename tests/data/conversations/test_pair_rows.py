"""Pairs as rows, and what becomes of over-long ones."""

from __future__ import annotations

import numpy as np
import pytest

from ling.config.sft import ChatDataConfig
from ling.data.conversations.pair_rows import pair_rows
from ling.data.conversations.preparation import fitted_pair
from ling.data.conversations.store import SampleStore
from ling.data.conversations.supervise import NOT_TRAINED, Supervised
from ling.errors import DataError

PROMPT = list(range(10, 20))


def sample(*answer):
    return Supervised("", [*PROMPT, *answer], [NOT_TRAINED] * 10 + list(answer), [], [])


def data(rule, length):
    return ChatDataConfig(files=["x"], seq_length=length, over_long=rule)


def test_both_answers_are_cut_alike_so_that_the_prompt_stays_the_same():
    both = [sample(30, 31), sample(40, 41, 42, 43)]
    found, done = fitted_pair(both, data("cut-left", 9))
    assert [f.ids for f in found] == [
        [15, 16, 17, 18, 19, 30, 31],
        [15, 16, 17, 18, 19, *both[1].ids[10:]],
    ]
    assert [f.trained for f in found] == [2, 4]
    assert "both answers of a pair alike" in done


def test_a_pair_is_left_out_where_an_answer_alone_is_too_long():
    found, done = fitted_pair([sample(1), sample(*range(40, 50))], data("cut-left", 10))
    assert found == []
    assert "answer alone" in done


@pytest.mark.parametrize("rule", ["drop", "split"])
def test_other_rules_leave_out_the_pair(rule):
    assert fitted_pair([sample(1), sample(2, 3)], data(rule, 11))[0] == []


def test_an_error_is_one():
    with pytest.raises(DataError, match="12 tokens are more than"):
        fitted_pair([sample(1), sample(2, 3)], data("error", 11))


def store(count):
    ids = np.arange(5 * count, dtype=np.uint16)
    return SampleStore(ids, ids, np.tile([2, 3], count).astype(np.int32))


def test_a_row_is_a_pair_as_two_documents():
    rows = pair_rows(store(3), seed=1, pad=0)
    row = rows.pair(1)
    assert row.tokens.tolist() == [5, 6, 7, 8, 9]
    assert row.borders.tolist() == [2, 5]
    assert row.loss_mask.tolist() == [1, 0, 1, 1, 0]
    assert row.extra["pair"].tolist() == [1]


def test_each_epoch_has_every_pair_in_an_order_of_its_own():
    rows = pair_rows(store(20), seed=1, pad=0, epochs=2.0)
    numbers = [int(rows[i].extra["pair"][0]) for i in range(len(rows))]
    assert sorted(numbers[:20]) == sorted(numbers[20:]) == list(range(20))
    assert numbers[:20] != numbers[20:]
    with pytest.raises(IndexError):
        rows[40]
