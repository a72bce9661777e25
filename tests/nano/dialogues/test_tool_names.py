"""Names say what a tool is about, or the caller knows that they do not."""

from __future__ import annotations

import random

from ling.nano.dialogues.offered import offered, offered_as_any
from ling.nano.dialogues.tool_names import argument_name, tool_name, words_in


def test_words_of_names_are_those_that_say_something():
    assert words_in(("set_alarm", "alarm", "wake_up", "add_alarm")) == ("alarm", "wake")
    assert words_in(("get_it", "add")) == ("get", "it", "add")  # rather those than none


def test_a_name_has_a_word_or_says_that_it_has_none():
    rng = random.Random(0)
    made = [tool_name(rng, ("alarm", "wake"), ()) for _ in range(2000)]
    telling = [name for name, says_what in made if says_what]
    assert all("alarm" in name.lower() or "wake" in name.lower() for name in telling)
    assert 0.7 < len(telling) / len(made) < 0.8
    assert not any("alarm" in name for name, says_what in made if not says_what)
    assert len({name for name, _ in made}) > 800


def test_a_taken_name_is_never_made():
    rng = random.Random(1)
    names = {tool_name(rng, ("alarm",), ())[0] for _ in range(500)}
    again = random.Random(1)
    assert not names & {tool_name(again, ("alarm",), names)[0] for _ in range(500)}
    assert {argument_name(rng, ("a", "b"), ("a",)) for _ in range(300)} >= {"b"}
    assert "a" not in {argument_name(rng, ("a", "b"), ("a",)) for _ in range(300)}


def test_tools_of_a_talk_differ_and_say_what_they_do_where_their_names_do_not():
    rng = random.Random(2)
    for _ in range(1000):
        kinds, tools = offered_as_any(rng, 4)
        assert len({k.topic for k in kinds}) == len({t.name for t in tools}) == 4
        for kind, tool in zip(kinds, tools, strict=True):
            said = tool.name.lower().replace("_", "")
            words = (w.replace("_", "") for w in (*words_in(kind.names), *kind.names))
            assert "description" in tool.schema["function"] or any(w in said for w in words)
            assert len({*tool.arguments.values()}) == len(kind.arguments)


def test_without_it_the_usual_names_are_offered():
    rng = random.Random(3)
    for kind in offered(rng, 20):
        assert kind.offer(rng, "train").name in kind.names
