"""What becomes of packages: plain small talk in pairs of turns, usual words, one in fifty apart."""

from __future__ import annotations

import itertools

from fetched import fetched

from ling.nano.sources import _talks, dialogues, nano_parts


def test_small_talk_is_cut_at_what_is_not_plain():
    turns = [
        "Hi",
        "Hello \u2019you\u2019",
        "look: https://x",
        "yes",
        "no",
        "odd",
        "caf\u00e9",
        "end",
    ]
    assert list(_talks(turns)) == [["Hi", "Hello 'you'"], ["yes", "no"]]
    assert list(_talks(["a"] * 20)) == [["a"] * 8, ["a"] * 8, ["a"] * 4]
    assert list(_talks(["a", "b" * 500, "c"])) == []


def test_no_conversation_is_on_both_sides(tmp_path):
    parts = nano_parts(fetched(tmp_path / "p"), tmp_path)
    for name in ("chitchat", "reasoning"):
        sides = [
            {c.origin.line for c in parts[name].documents(split)} for split in ("train", "held_out")
        ]
        assert all(sides)
        assert not sides[0] & sides[1]


def test_small_talk_is_told_from_the_assistant_by_its_system_text(tmp_path):
    parts = nano_parts(fetched(tmp_path / "p"), tmp_path)
    talk = next(parts["chitchat"].documents("train")).messages
    assert [m["role"] for m in talk[:3]] == ["system", "user", "assistant"]
    task = next(parts["reasoning"].documents("train")).messages
    assert [m["role"] for m in task] == ["user", "assistant"]


def test_only_usual_words_are_prose(tmp_path):
    parts = nano_parts(fetched(tmp_path / "p"), tmp_path)
    assert len((tmp_path / "wordnet.jsonl").read_text().splitlines()) == 20
    assert len(list(parts["prose"].texts(1 << 20))) == 80 + 20 + 20


def test_dialogues_depend_on_the_seed_alone(tmp_path):
    packages = fetched(tmp_path / "p")
    first, again, other = (
        list(itertools.islice(dialogues(packages, "train", seed), 20)) for seed in (0, 0, 1)
    )
    assert first == again != other
