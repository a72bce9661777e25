"""After so many tokens of reasoning its end is forced."""

from __future__ import annotations

import numpy as np
import pytest

from ling.grammar.thinking import ThinkingBudget, ThinkingTokens

VOCAB = 300
TOKENS = ThinkingTokens(lambda i: bytes([i]) if i < 256 else b"</think>", (10, 256, 10), VOCAB)
TEXT_END = ThinkingTokens(TOKENS.token_bytes, tuple(b"\n</think>\n"), VOCAB)


class Inner:
    """A constraint that allows digits and is complete after a 9."""

    def __init__(self):
        self.taken = []

    @property
    def is_done(self):
        return 57 in self.taken

    def mask(self, drafts):
        mask = np.zeros((VOCAB + 31) // 32, np.uint32)
        mask[1] = 0x03FF0000  # ids 48 to 57
        return mask

    def accept(self, token):
        self.taken.append(token)

    def forced(self):
        return [57]


def only(mask):
    (i,) = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    return int(i)


def say(budget, text):
    for byte in text:
        budget.accept(byte)


@pytest.mark.parametrize("tokens", [TOKENS, TEXT_END])
def test_the_end_is_forced_after_the_budget_and_the_rest_is_free(tokens):
    budget = ThinkingBudget(3, "open", tokens)
    assert budget.mask([]) is None
    assert budget.mask(list(b"ab")) is None
    assert only(budget.mask(list(b"abc"))) == 10
    say(budget, b"abc")
    assert tuple(budget.forced()) == tokens.closing
    ahead = [only(budget.mask(tokens.closing[:i])) for i in range(len(tokens.closing))]
    assert tuple(ahead) == tokens.closing
    for i, token in enumerate(tokens.closing):
        assert only(budget.mask([])) == token
        budget.accept(token)
        assert tuple(budget.forced()) == tokens.closing[i + 1 :]
    assert budget.mask([]) is None
    assert not budget.is_done


def test_reasoning_that_ends_by_itself_is_left_alone():
    budget = ThinkingBudget(20, "open", TOKENS)
    say(budget, b"why</think>" + b"x" * 50)
    assert budget.mask([]) is None
    budget = ThinkingBudget(4, "open", TOKENS)
    say(budget, [97, 256])
    assert budget.mask(list(b"x" * 9)) is None


def test_a_leading_block_counts_and_other_answers_are_free():
    budget = ThinkingBudget(2, "auto", TOKENS)
    say(budget, b"\n <think>")
    assert budget.mask([]) is None
    assert only(budget.mask(list(b"ab"))) == 10
    budget = ThinkingBudget(0, "auto", TOKENS)
    say(budget, b"<think>")
    assert only(budget.mask([])) == 10
    budget = ThinkingBudget(0, "auto", TOKENS)
    say(budget, b"No <think>")
    assert budget.mask(list(b"abc")) is None


def test_half_a_character_is_finished_first():
    budget = ThinkingBudget(1, "open", TOKENS)
    wide = "\U0001f600".encode()
    for i in range(1, 4):
        assert budget.mask(list(wide[:i])) is None
    assert only(budget.mask(list(wide))) == 10
    assert only(budget.mask(list("é".encode()))) == 10


def test_the_inner_constraint_sees_every_token_and_decides_where_none_is_forced():
    inner = Inner()
    budget = ThinkingBudget(1, "open", TOKENS, inner)
    assert (budget.mask([]) == inner.mask([])).all()
    assert list(budget.forced()) == []
    say(budget, [97, 10, 256, 10])
    assert list(budget.forced()) == [57]
    say(budget, [57])
    assert inner.taken == [97, 10, 256, 10, 57]
    assert budget.is_done
