"""Tools that are made up for one conversation are asked for in words that they share."""

from __future__ import annotations

import random

from ling.nano.dialogues.draw import Draw
from ling.nano.dialogues.tool_names import words_in
from ling.nano.dialogues.tools_any import DEED, tool_of_any


def test_a_question_shares_a_word_with_the_tool_and_has_its_argument():
    rng = random.Random(0)
    topics = set()
    for _ in range(500):
        kind = tool_of_any(rng, ())
        topics.add(kind.topic)
        tool = kind.offer_as_any(rng, ())
        turn = kind.ask(Draw(rng, "train"), tool)
        assert turn.call is not None
        assert turn.call.tool == tool.name
        (value,) = turn.call.arguments.values()
        asked = turn.text.lower()
        assert str(value).lower() in asked
        assert any(word in asked for word in words_in(kind.names))
        if kind.kind == DEED and "thing" in tool.values:
            assert value in tool.values["thing"]
    assert len(topics) > 300


def test_a_topic_that_is_taken_is_not_made():
    first = tool_of_any(random.Random(1), ()).topic
    assert tool_of_any(random.Random(1), {first}).topic != first
