"""Models by tasks: what is computed, and what a second run finds done."""

from __future__ import annotations

import json

import pytest
from scripted_scorer import ScriptedScorer

from ling.errors import CheckpointError, RunError, UsageError
from ling.eval.evaluate import evaluate
from ling.eval.scorers.choose import Subject
from ling.eval.serving.client import Unreachable
from ling.eval.tasks.named import tasks_named
from ling.eval.tasks.task import TaskOptions


class Scripted(Subject):
    """A model under a scripted scorer, of which every opening is counted."""

    scorer = ScriptedScorer(says=lambda ask: "2")
    opened = 0

    def described(self):
        return {"model": self.model}

    def open(self):
        type(self).opened += 1
        return self.scorer


@pytest.fixture
def data(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("one", "two"):
        lines = [json.dumps({"question": f"{name} {i}", "answer": i}) for i in range(4)]
        (data / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return data


def run(data, out, models=("a", "b"), tasks="one,two", **options):
    options = TaskOptions(data=(str(data),), **options)
    lines = []
    Scripted.opened = 0
    found = evaluate([Scripted(m) for m in models], tasks_named(tasks, options), out, lines.append)
    return found, lines


def test_a_second_run_opens_no_model_and_finds_the_same(data, tmp_path):
    out = tmp_path / "out"
    first, _ = run(data, out)
    assert Scripted.opened == 2
    assert [r.headline for r in first.results] == [0.25] * 4
    again, lines = run(data, out)
    assert (again, Scripted.opened) == (first, 0)
    assert lines == [f"{m}, {t}: done before" for m in "ab" for t in ("one", "two")]
    assert (out / "results.txt").read_text().startswith("task  metric")


def test_a_damaged_result_is_computed_again_from_its_answers(data, tmp_path):
    out = tmp_path / "out"
    first, _ = run(data, out)
    path = out / "a" / "one.json"
    path.write_text(path.read_text()[:-20])
    asked = Scripted.scorer.asked
    again, lines = run(data, out)
    assert again == first
    assert f"{path}: of other settings, or not whole; computed again" in lines
    assert Scripted.scorer.asked == asked
    run(data, out, limit=2)
    assert json.loads(path.read_text())["count"] == 2


def test_a_server_that_is_gone_stops_the_run_and_says_that_it_continues(
    data, tmp_path, monkeypatch
):
    def gone(asks):
        raise Unreachable("http://x: no answer; tried 7 times")

    monkeypatch.setattr(Scripted.scorer, "generate", gone)
    with pytest.raises(RunError, match=r"tried 7 times; .* the same command continues"):
        run(data, tmp_path / "out")
    with pytest.raises(RunError, match=r"tried 7 times$"):
        run(data, None)


def test_models_that_would_replace_each_others_results_are_refused(data, tmp_path):
    with pytest.raises(UsageError, match=r"`x/m` and `\.\./x/m` would both be in .*x_m"):
        run(data, tmp_path / "out", ["x/m", "../x/m"])
    assert not (tmp_path / "out").exists()
    assert len(run(data, None, ["x/m", "../x/m"])[0].results) == 4


def test_a_missing_model_is_said_before_another_one_runs(data, tmp_path, monkeypatch):
    def described(self):
        if self.model == "b":
            raise CheckpointError("b: no such model folder")
        return {"model": self.model}

    monkeypatch.setattr(Scripted, "described", described)
    with pytest.raises(CheckpointError):
        run(data, tmp_path / "out")
    assert Scripted.opened == 0
    assert not (tmp_path / "out").exists()
