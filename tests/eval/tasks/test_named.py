"""Which task a name means, and what is said where its data are missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from ling.errors import DataError, UsageError
from ling.eval.tasks.harness import HarnessTask
from ling.eval.tasks.named import tasks_named
from ling.eval.tasks.quiz import Quiz
from ling.eval.tasks.suites import SUITES
from ling.eval.tasks.task import TaskOptions
from ling.eval.tasks.text import BitsPerByte, Perplexity


@pytest.fixture
def options(tmp_path):
    return TaskOptions(data=(str(tmp_path),))


def test_names_are_texts_then_files_then_lm_evals(tmp_path, options):
    (tmp_path / "own.jsonl").write_text(json.dumps({"question": "q", "answer": 1}) + "\n")
    (tmp_path / "hmmt.jsonl").write_text(json.dumps({"problem": "q", "answer": "x"}) + "\n")
    found = tasks_named("ppl, bpb,own,hmmt,gsm8k,own", options)
    assert [type(t) for t in found] == [Perplexity, BitsPerByte, Quiz, Quiz, HarnessTask]
    assert found[3].settings()["questions"]["question"] == "problem"


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_without_its_file_says_how_it_is_written(options, name):
    with pytest.raises(DataError, match=rf"{name}.jsonl: no such file; .*{SUITES[name].dataset}"):
        tasks_named(name, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppl,,bpb", "without empty names"),
        ("../ppl", "no task `../ppl`"),
        ("../own", "no task `../own`"),
        ("{folder}/own", "no task `/"),
    ],
)
def test_names_that_are_none(options, text, message):
    (folder := Path(options.data[0]) / "data").mkdir()
    (folder.parent / "own.jsonl").write_text('{"question": "q", "answer": 1}\n')
    options = TaskOptions(data=(str(folder),))
    text = text.format(folder=folder.parent)
    with pytest.raises(UsageError, match=message):
        tasks_named(text, options)


def test_questions_need_one_folder(tmp_path):
    with pytest.raises(DataError, match="expected one folder"):
        tasks_named("own", TaskOptions(data=(str(tmp_path / "a.txt"),)))


def test_a_misspelt_task_is_not_said_to_need_lm_eval_alone(options, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (task,) = tasks_named("ppll", options)
    with pytest.raises(
        UsageError, match=r"no file .*ppll.jsonl \(did you mean `ppl`\?\); .*lm-eval"
    ):
        task.settings()
