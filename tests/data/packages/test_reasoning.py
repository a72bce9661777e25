"""Easy tasks by seed; the package itself is tried where it is installed."""

from __future__ import annotations

import importlib.metadata
import random
import sys
from types import SimpleNamespace

import pytest

from ling.data.packages import reasoning
from ling.data.packages.reasoning import MAX_CHARS, Task, easy_tasks
from ling.errors import UsageError


class Made:
    """As the package: question i of seed s comes from the random numbers of s + i."""

    def __init__(self, name, size, seed, **settings):
        self.name, self.seed, self.settings = name, seed, settings

    def __getitem__(self, index):
        number = random.Random(self.seed + index).randrange(self.settings["choices"])
        question = self.settings.get("text", "what is {}?").format(number)
        return {"question": question, "answer": str(number)}


@pytest.fixture
def package(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", SimpleNamespace(create_dataset=Made))
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: "0.1.25" if n == "reasoning-gym" else version(n)
    )

    def use(*tasks):
        monkeypatch.setattr(reasoning, "TASKS", list(tasks))

    return use


def test_tasks_take_turns_and_questions_are_distinct(package):
    package(Task("few", {"choices": 3}), Task("many", {"choices": 10**6}))
    found = list(easy_tasks(0, 20))
    assert [d["task"] for d in found[:6]] == ["few", "many"] * 3
    assert [d["task"] for d in found[6:]] == ["many"] * 14
    assert len({(d["task"], d["turns"][0]) for d in found}) == 20
    assert found[0]["text"] == "\n".join(found[0]["turns"])


def test_a_seed_gives_the_same_and_another_seed_other_questions(package):
    package(Task("many", {"choices": 10**9}))
    assert list(easy_tasks(1, 50)) == list(easy_tasks(1, 50))
    first, second = ({d["turns"][0] for d in easy_tasks(seed, 50)} for seed in (0, 1))
    assert not first & second


def test_the_end_comes_when_nothing_is_new(package):
    package(Task("few", {"choices": 3}))
    assert len(list(easy_tasks(0, 100))) == 3


def test_long_questions_are_left_out(package):
    package(Task("long", {"choices": 9, "text": "{}" + "x" * MAX_CHARS}))
    assert not list(easy_tasks(0, 5))


def test_answers_of_a_wrong_form_are_left_out(package):
    package(Task("t", {"choices": 100}, answer="[0-9]"))
    assert all(len(d["turns"][1]) == 1 for d in easy_tasks(0, 5))


@pytest.mark.parametrize(
    ("part", "text", "question"),
    [
        ("all", "a\n\nb?\n", "A\n\nb?"),
        ("last paragraph", "Answer so.\n\nNow, sort these: a\n", "Sort these: a"),
        ("first line", "sort 3\nin this form\n", "Sort 3"),
    ],
)
def test_the_part_that_is_asked(package, part, text, question):
    package(Task("t", {"choices": 1, "text": text}, part))
    assert next(easy_tasks(0, 1))["turns"][0] == question


def test_lists_are_written_as_people_do():
    task = Task("t", is_list=True)
    assert reasoning._answer({"answer": "['2.0', '-1.5', '10.0']"}, task) == "2, -1.5, 10"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UsageError, match=r"need the package reasoning-gym: pip install 'ling\["):
        next(easy_tasks(0, 1))


def test_another_version_would_give_other_questions(package, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "9.9")
    with pytest.raises(UsageError, match=r"reasoning-gym is 9\.9, expected 0\.1\.25"):
        next(easy_tasks(0, 1))


def test_the_real_tasks():
    pytest.importorskip("reasoning_gym")
    found = list(easy_tasks(0, 40))
    assert {d["task"] for d in found} == {t.name for t in reasoning.TASKS}
    assert found[0]["text"] == (
        "State the final answer to the following arithmetic problem: 15 - 43 - 75 =\n-103"
    )
