"""The model that learns to find a needle: stages, resuming, and what it leaves."""

from __future__ import annotations

import json

import pytest

from ling.checkpoint.load import load_model
from ling.cli.needle import needle as command
from ling.config.long_context import trained_length
from ling.errors import UsageError
from ling.eval import needle_train
from ling.eval.needle import NeedleOptions
from ling.eval.needle_train import FULL, QUICK, Course, Stage, shape, train_needle
from ling.files.atomic import hash_tree
from ling.model.size import parameter_counts

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (Stage(24, 3, 2, 3), Stage(32, 2, 2))


def test_the_shape_is_of_one_to_two_million_parameters_without_mtp():
    cfg = shape(FULL.stages[-1].length)
    counts = parameter_counts(cfg)
    assert 1_000_000 < counts["total"] < 2_000_000
    assert cfg.num_nextn_predict_layers == 0
    assert trained_length(cfg) == 256


@pytest.mark.parametrize("course", [FULL, QUICK])
def test_stages_grow_and_end_with_the_row_that_is_measured(course):
    lengths, last = [stage.length for stage in course.stages], course.stages[-1]
    assert lengths == sorted(lengths)
    assert (last.times, course.options.lengths[0]) == (2, last.length)
    assert course.options.rows * len(course.options.depths) >= 200
    assert course.options.lengths[-1] == 8 * last.length


def test_a_stopped_training_continues_and_ends_alike(tmp_path):
    """Each stage begins from the one before; the same seed gives the same weights."""
    at_once, stopped = tmp_path / "at-once", tmp_path / "stopped"
    assert train_needle(at_once, TINY, log=str) == 0

    class Stop(Exception):
        pass

    def stop(text):
        if text.startswith("[2/2]"):
            raise Stop

    with pytest.raises(Stop):
        train_needle(stopped, TINY, log=stop)
    said: list[str] = []
    assert train_needle(stopped, TINY, log=said.append) == 0
    assert any("already done (3 steps)" in line for line in said)
    assert hash_tree(at_once / "model") == hash_tree(stopped / "model")
    start, end = (load_model(stopped / name).state_dict() for name in ("start", "model"))
    assert all((start[name] != end[name]).any() for name in start if name.endswith("proj.weight"))


def test_the_command_trains_and_measures(tmp_path, monkeypatch, capsys):
    small = NeedleOptions(lengths=(32, 64), depths=(0.5,), rows=2, yarn=(1.0, 2.0))
    monkeypatch.setattr(needle_train, "FULL", Course(TINY, small))
    monkeypatch.setattr(needle_train, "QUICK", Course(TINY[:1], small))
    assert command(["--train", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "trained at 32 tokens" in said
    assert (tmp_path / "out" / "needle.json").is_file()
    for other in (["--quick"], ["--seed", "1"]):  # the model that is there is not this one
        with pytest.raises(UsageError, match="another course"):
            command(["--train", str(tmp_path / "out"), *other])
    assert command(["--train", str(tmp_path / "other"), "--seed", "1"]) == 0
    start, other = (load_model(tmp_path / n / "start").state_dict() for n in ("out", "other"))
    assert any((start[name] != other[name]).any() for name in start)
    assert json.loads((tmp_path / "other" / "needle.json").read_text())["seed"] == 1
