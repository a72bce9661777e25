"""Pairs of answers in the forms of LLaMA-Factory and trl."""

from __future__ import annotations

from pathlib import Path

import pytest

from ling.data.conversations.fields import RecordError, Row
from ling.data.conversations.messages import Tags
from ling.data.conversations.pairs import read_pair
from ling.data.conversations.types import Origin

ASK, YES = {"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}
NO = {"role": "assistant", "content": "no"}
GPT = {"from": "gpt", "value": "yes"}, {"from": "gpt", "value": "no"}


def pair(**row):
    return read_pair(Row(row), Tags(), Origin(Path("x"), 1))


FORMS = {
    "LLaMA-Factory, ShareGPT": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": GPT[0],
        "rejected": GPT[1],
    },
    "LLaMA-Factory, Alpaca": {"instruction": "q", "input": "", "chosen": "yes", "rejected": "no"},
    "LLaMA-Factory, v1": {"chosen_messages": [ASK, YES], "rejected_messages": [ASK, NO]},
    "trl, texts": {"prompt": "q", "chosen": "yes", "rejected": "no"},
    "trl, messages": {"prompt": [ASK], "chosen": [YES], "rejected": [NO]},
    "trl, prompt in the messages": {"chosen": [ASK, YES], "rejected": [ASK, NO]},
    "UltraFeedback": {"prompt": "q", "chosen": [ASK, YES], "rejected": [ASK, NO]},
    "prompt in the texts": {"chosen": "q yes", "rejected": "q no"},
}


@pytest.mark.parametrize("form", FORMS)
def test_both_answers_follow_the_same_prompt(form):
    found = pair(**FORMS[form])
    for side, text in ((found.chosen, "yes"), (found.rejected, "no")):
        assert side.messages[:1] == [ASK]
        assert side.messages[1]["content"].strip() == text
        assert side.in_loss == [False, True]


def test_only_what_differs_is_in_the_loss():
    found = pair(chosen=[ASK, YES, ASK, YES], rejected=[ASK, YES, ASK, NO])
    assert found.chosen.in_loss == found.rejected.in_loss == [False, False, False, True]


def test_tools_and_system_belong_to_both():
    tool = {"type": "function", "function": {"name": "f"}}
    found = pair(prompt="q", chosen="yes", rejected="no", tools=[tool], system="s")
    assert found.chosen.tools == found.rejected.tools == [tool]
    assert found.chosen.messages[:2] == found.rejected.messages[:2]
    assert found.chosen.messages[0] == {"role": "system", "content": "s"}


def test_nothing_is_stripped_from_texts_that_hold_their_prompt():
    found = pair(chosen="The sky is blue.", rejected="The sky is green.")
    assert found.chosen.messages[0]["content"] == "The sky is"
    assert found.chosen.messages[1]["content"] == " blue."


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("no `rejected`", {"prompt": "q", "chosen": "yes"}),
        ("no common beginning", {"chosen": "yes", "rejected": "no"}),
        ("are the same text", {"chosen": "yes", "rejected": "yes"}),
        (
            "not an answer to the same",
            {"chosen": [ASK, YES], "rejected": [{**ASK, "content": "r"}]},
        ),
        ("has no answer", {"prompt": "q", "chosen": [YES], "rejected": []}),
        ("begins with a system or a user", {"chosen": [YES], "rejected": [NO]}),
        ("expected a list of messages", {"prompt": "q", "chosen": 3, "rejected": "no"}),
        ("expected a text", {"instruction": 3, "chosen": "a", "rejected": "b"}),
    ],
)
def test_pairs_that_are_none_are_refused(reason, row):
    with pytest.raises(RecordError, match=reason):
        pair(**row)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "yes", "rejected": "yes"},
        {"chosen": [ASK, YES], "rejected": [ASK, YES]},
    ],
)
def test_equal_answers_say_nothing(row):
    with pytest.raises(RecordError, match="`chosen` and `rejected` are the same answer"):
        pair(**row)
