"""TensorBoard, W&B and trackio: opened, refused, and left out when they fail."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace

import pytest
from runs import quiet

from ling.errors import UsageError
from ling.train import loggers, loop
from ling.train.log import read_metrics
from ling.train.loggers import check_loggers, numbers, open_loggers


def logged_to(recipe, *names):
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, loggers=list(names)))


@pytest.fixture
def tracker(monkeypatch):
    """Stands in for both packages; `calls` is what was asked of it."""
    calls = []

    class Run:
        def log(self, values, step):
            calls.append(("log", step, values))
            if "broken" in values:
                raise OSError("no route to host\nsecond line")

        def finish(self):
            calls.append(("finish",))

    module = SimpleNamespace(init=lambda **options: calls.append(("init", options)) or Run())
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(loggers, "_is_installed", lambda name: True)
    return calls


def test_one_that_is_not_installed_ends_a_run_before_it_begins(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "_is_installed", lambda name: name != "wandb")
    with pytest.raises(UsageError, match=r"`wandb`, not installed: pip install wandb$"):
        loop.run(logged_to(recipe(), "wandb"), tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()
    check_loggers(None)
    check_loggers(["tensorboard"])


def test_without_tensorboard_a_line_says_so(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "_is_installed", lambda name: False)
    said = []
    assert open_loggers(recipe(), tmp_path, 1, said.append) == []
    assert len(said) == 1
    assert "pip install tensorboard" in said[0]
    assert open_loggers(logged_to(recipe()), tmp_path, 1, said.append) == []
    assert len(said) == 1  # none was wanted


def test_tensorboard_has_the_numbers_of_a_run(recipe, tmp_path):
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert loop.run(recipe(steps=2), tmp_path / "run", quiet) == 0
    events = board.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    got = [(e.step, e.value) for e in events.Scalars("grad_norms/experts")]
    assert got == [(r["step"], pytest.approx(r["grad_norms"]["experts"])) for r in rows]
    assert events.Scalars("ranks/resident_bytes/0")[0].value > 10e6


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_that_continues_is_the_same_run_there(recipe, tmp_path, tracker, name):
    chosen = logged_to(recipe(), name)
    for first in (1, 5):
        (logger,) = open_loggers(chosen, tmp_path, first, quiet)
        logger.write(first, {"loss": 1.0})
        logger.close()
    (_, a), (_, b) = (call for call in tracker if call[0] == "init")
    assert a == b
    assert (a["resume"], a["config"]["train"]["loggers"]) == ("allow", [name])
    assert [c for c in tracker if c[0] == "log"] == [("log", n, {"loss": 1.0}) for n in (1, 5)]


def test_one_that_fails_is_left_out_with_one_line(recipe, tmp_path, tracker):
    said = []
    (logger,) = open_loggers(logged_to(recipe(), "wandb"), tmp_path, 1, said.append)
    logger.write(1, {"broken": 1.0})
    logger.write(2, {"loss": 1.0})
    logger.close()
    assert said == ["wandb failed (no route to host); the run continues without it"]
    assert [c[0] for c in tracker] == ["init", "log"]


def test_one_that_does_not_start_is_an_error_of_a_new_run_only(recipe, tmp_path, monkeypatch):
    def no_login(**options):
        raise RuntimeError("api_key not configured")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=no_login))
    chosen, said = logged_to(recipe(), "wandb"), []
    with pytest.raises(UsageError, match="wandb does not start: api_key not configured"):
        open_loggers(chosen, tmp_path, 1, said.append)
    assert open_loggers(chosen, tmp_path, 5, said.append) == []
    assert len(said) == 1


def test_numbers_of_tables_have_their_names():
    row = {
        "step": 3, "loss": 1.5, "mtp_loss": None, "grad_norms": {"head": 0.5},
        "slowest": {"rank": 1, "host": "a"}, "expert_load": {"1": [3, 4]},
        "ranks": {"own_s": [0.5, 0.25]},
    }  # fmt: skip
    assert numbers(row) == {
        "step": 3, "loss": 1.5, "grad_norms/head": 0.5, "slowest/rank": 1,
        "ranks/own_s/0": 0.5, "ranks/own_s/1": 0.25,
    }  # fmt: skip
