"""Result files, whole and damaged, and the table."""

from __future__ import annotations

import json

import pytest

from ling.eval.results import Result, ResultFile, table, words
from ling.eval.results_plot import draw, positions
from ling.eval.tasks.task import Outcome

SETTINGS = {"task": "q", "limit": None, "stop": ["a"]}


def result(model="m", task="q", value=0.5, **more):
    return Result(model, task, Outcome({"acc": value, "n": 3}, "acc", **more))


@pytest.fixture
def file(tmp_path):
    file = ResultFile(tmp_path, "m", "q")
    file.prepare()
    file.write(result(), SETTINGS, {"date": "today"})
    return file


def test_a_whole_result_of_the_same_settings_is_read(file):
    assert file.read(SETTINGS) == result()
    assert file.read({**SETTINGS, "limit": 3}) is None
    assert ResultFile(file.folder.parent, "other", "q").read(SETTINGS) is None


def test_no_damage_is_taken_for_a_result(file):
    text = file.path.read_text()
    for at in range(0, len(text) - 1, 7):
        file.path.write_text(text[:at])
        assert file.read(SETTINGS) is None
    for change in ({"metrics": {}}, {"headline": 3}, {"version": 2}, {"metrics": {"acc": "x"}}):
        file.path.write_text(json.dumps(json.loads(text) | change))
        assert file.read(SETTINGS) is None


def test_the_best_of_a_row_has_a_star():
    found = [
        result("a", "q", 0.5),
        result("b", "q", 0.75),
        result("a", "loss", 2.0, higher_is_better=False),
        result("b", "loss", 3.0, higher_is_better=False),
        result("a", "only", 1.0),
    ]
    assert table(found, ["a", "b"], ["a", "b"]) == [
        "task  metric        a        b",
        "q     acc      0.5000  0.7500*",
        "loss  acc     2.0000*   3.0000",
        "only  acc      1.0000        -",
    ]
    assert words(found[0].outcome) == "acc 0.5000, n 3"


def test_checkpoints_of_a_training_are_points_of_a_line():
    names = [f"ling-mini-base-2.0-{n}t" for n in (5, 10, 20)]
    assert positions(names) == ("training tokens (trillions)", [5.0, 10.0, 20.0])
    assert positions([f"runs/a/step_{n:07d}" for n in (100, 200, 300)]) == (
        "training step",
        [100.0, 200.0, 300.0],
    )
    assert positions(["a-5t", "b-10t", "c-20t"]) is None, "not of one training"
    assert positions(["a", "b", "c"]) is None
    assert positions(names[:2]) is None


@pytest.mark.parametrize("models", [["x", r"$\frac$"], ["m-20t", "m-5t", "m-10t"]], ids=str)
def test_a_picture_is_drawn(tmp_path, models):
    pytest.importorskip("matplotlib")
    found = [result(m, t, 0.1 * k) for t in ("q", "r") for k, m in enumerate(models)]
    path = draw(found, models, models, tmp_path / "a.png")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
