"""Texts as tasks: the files that are read, and what is measured of them."""

from __future__ import annotations

import math

import pytest
from scripted_scorer import ScriptedScorer

from ling.config.engine import EngineConfig
from ling.errors import DataError, UsageError
from ling.eval.kept import Kept
from ling.eval.scorers.choose import ScorerOptions, Subject
from ling.eval.tasks.task import TaskOptions
from ling.eval.tasks.text import BitsPerByte, Perplexity


def test_bits_per_byte_are_of_the_folder_named_text(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("abcd" * 300)
    (tmp_path / "questions.jsonl").write_text("not read\n")
    scorer = ScriptedScorer(lambda text: -len(text) * math.log(2))
    task = BitsPerByte(TaskOptions(data=(str(tmp_path),)))
    found = task.run(Subject("m"), Kept(lambda: scorer, {}, None))
    assert found.metrics["bits_per_byte"] == pytest.approx(1.0)
    assert (found.metrics["bytes"], found.count, found.higher_is_better) == (1200, 2, False)
    few = BitsPerByte(TaskOptions(data=(str(tmp_path),), limit=1))
    assert few.run(Subject("m"), Kept(lambda: scorer, {}, None)).metrics["bytes"] == 1024
    assert few.settings() != task.settings()


def test_missing_and_empty_texts_are_errors(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        Perplexity(TaskOptions(data=(str(tmp_path / "nowhere"),))).settings()
    (tmp_path / "a.txt").write_text("")
    task = BitsPerByte(TaskOptions(data=(str(tmp_path / "a.txt"),)))
    with pytest.raises(DataError):
        task.run(Subject("m"), Kept(lambda: ScriptedScorer(), {}, None))


def test_only_checkpoints_have_the_trainers_measure(tmp_path):
    task = Perplexity(TaskOptions(data=(str(tmp_path),)))
    for subject in (
        Subject("http://127.0.0.1:1"),
        Subject("m", ScorerOptions(scorer="transformers")),
    ):
        with pytest.raises(UsageError, match="`bpb` asks any scorer"):
            task.run(subject, Kept(lambda: ScriptedScorer(), {}, None))


@pytest.mark.parametrize("option", [{"format": "int8"}, {"lora": "x"}])
def test_the_trainers_measure_is_not_of_what_only_the_engine_makes(tmp_path, option):
    subject = Subject("m", ScorerOptions(engine=EngineConfig(**option)))
    with pytest.raises(UsageError, match=f"without `{next(iter(option))}`; `bpb` asks the engine"):
        Perplexity(TaskOptions(data=(str(tmp_path),))).run(subject, None)
