"""Back to the last good checkpoint, without the rows of the steps that were not finite."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from runs import logged_losses, quiet, saved_steps
from small_runs import recipes, stop_after

from ling.config.recipe import CheckpointConfig
from ling.errors import RunError
from ling.train import loop, saving
from ling.train.batches import BatchReader
from ling.train.objectives.pretrain import Pretraining
from ling.train.rollback import FILE
from ling.train.starts import read_starts

CONSTANT = {"schedule": "constant"}


@pytest.fixture
def recipe(tmp_path):
    return recipes(tmp_path)


@pytest.fixture
def bad_rows(monkeypatch):
    """Rows whose loss is not finite; and the first rows of all steps, as they are read."""
    bad, read = set(), []
    losses, reader = Pretraining.losses, BatchReader.read

    def noted(self, first, rows):
        read.append(first)
        return reader(self, first, rows)

    def spoiled(self, network, batch):
        found = losses(self, network, batch)
        if read[-1] in bad:
            found.named["loss"] = found.named["loss"] * float("nan")
        return found

    monkeypatch.setattr(BatchReader, "read", noted)
    monkeypatch.setattr(Pretraining, "losses", spoiled)
    return bad, read


def settings(**more):
    return {"max_nonfinite": 2, "rollback": 1, **more}


def test_rows_of_bad_steps_are_left_out_after_going_back(recipe, tmp_path, bad_rows):
    bad, read = bad_rows
    bad.update((8, 10))  # steps 5 and 6
    out, said = tmp_path / "run", []
    cfg = recipe(steps=8, interval=2, train=settings())
    assert loop.run(cfg, out, said.append) == 0
    assert read == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    (line,) = [text for text in said if "rollback" in text]
    assert line == (
        "step 6: loss or gradient not finite 2 times in a row; "
        "back to step-4, rows 8 to 11 are left out (rollback 1 of 1)"
    )
    assert [step for step, *_ in logged_losses(out)] == list(range(1, 9))
    assert saved_steps(out) == ["step-6", "step-8"]
    assert [start["after_step"] for start in read_starts(out)] == [0]


@pytest.mark.parametrize(("stop", "killed"), [(4, False), (5, False), (7, True), (9, True)])
def test_a_run_that_is_stopped_after_it_went_back_goes_on_alike(
    recipe, tmp_path, bad_rows, monkeypatch, stop, killed
):
    bad, read = bad_rows
    bad.update((8, 10, 18, 20))  # the second time in what came in place of the first
    cfg = recipe(steps=10, interval=2, train=settings(rollback=2))
    assert loop.run(cfg, tmp_path / "whole", quiet) == 0
    whole = list(read)
    read.clear()
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_catch_signals", stop_after(stop))
        loop.run(cfg, out, quiet)
    if killed:  # what it saved at the signal is not there
        shutil.rmtree(out / "checkpoints" / saved_steps(out)[-1])
    assert loop.run(cfg, out, quiet) == 0
    assert logged_losses(out) == logged_losses(tmp_path / "whole")
    assert set(read) == set(whole)
    assert (out / FILE).read_text() == (tmp_path / "whole" / FILE).read_text()


def test_there_are_at_most_so_many_whatever_happens_between(recipe, tmp_path, bad_rows):
    bad, _ = bad_rows
    bad.update(range(8, 200, 2))
    cfg = recipe(steps=8, interval=2, train=settings(rollback=2))
    for _ in range(2):
        with pytest.raises(RunError, match=r"2 times in a row after 2 rollbacks; lower `optim.lr`"):
            loop.run(cfg, tmp_path / "run", quiet)
    assert len(json.loads((tmp_path / "run" / FILE).read_text())) == 2
    none = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, rollback=0))
    with pytest.raises(RunError, match=r"lower `optim.lr`$"):
        loop.run(none, tmp_path / "run", quiet)


def test_without_a_good_checkpoint_there_is_nothing_to_go_back_to(recipe, tmp_path, bad_rows):
    bad, _ = bad_rows
    bad.update((0, 2))
    with pytest.raises(RunError, match="there is no checkpoint to go back to"):
        loop.run(recipe(interval=1, train=settings()), tmp_path / "run", quiet)


def test_a_checkpoint_between_bad_steps_is_none_to_go_back_to(recipe, tmp_path, bad_rows):
    bad, read = bad_rows
    bad.update((6, 8, 10))  # steps 4, 5, 6; step-4 is saved
    cfg = recipe(steps=8, interval=2, train=settings(max_nonfinite=3))
    assert loop.run(cfg, tmp_path / "run", quiet) == 0
    assert read == [0, 2, 4, 6, 8, 10, 4, 12, 14, 16, 18, 20]


def test_a_bad_checkpoint_that_is_finished_later_removes_no_good_one(
    recipe, tmp_path, bad_rows, monkeypatch
):
    """The step after it may have been good again by then."""
    bad, _ = bad_rows
    bad.update((10, 14, 16, 18))  # steps 6, which is saved, and 8 to 10
    monkeypatch.setattr(saving.Work, "start", lambda self: None)
    monkeypatch.setattr(saving.Saver, "advance", saving.Saver.finish)
    cfg = recipe(steps=11, interval=3, train=settings(max_nonfinite=3))
    kept = CheckpointConfig(interval_steps=3, keep_last=1, async_save=True)
    said: list[str] = []
    out = tmp_path / "run"
    assert loop.run(dataclasses.replace(cfg, checkpoint=kept), out, said.append) == 0
    assert any("back to step-3" in line for line in said)


def test_bad_steps_before_and_after_a_restart_are_counted_together(
    recipe, tmp_path, bad_rows, monkeypatch
):
    bad, read = bad_rows
    bad.update((6, 8, 10))  # steps 4, 5, 6
    cfg = recipe(steps=8, interval=1, train=settings(max_nonfinite=3))
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_catch_signals", stop_after(5))
        loop.run(cfg, tmp_path / "run", quiet)
    assert loop.run(cfg, tmp_path / "run", quiet) == 0
    assert read == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert saved_steps(tmp_path / "run") == ["step-7", "step-8"]


def test_new_data_has_none_of_the_rows_but_the_rollbacks_count(recipe, tmp_path, bad_rows):
    bad, read = bad_rows
    bad.update((4, 6))
    out = tmp_path / "run"
    assert loop.run(recipe(steps=4, interval=2, train=settings(), optim=CONSTANT), out, quiet) == 0
    bad.clear()
    read.clear()
    other = recipe(steps=8, interval=2, seed=7, train=settings(), optim=CONSTANT)
    assert loop.run(other, out, quiet, allow_data_reset=True) == 0
    assert read == [0, 2, 4, 6]
    bad.update((8, 10))
    more = recipe(steps=12, interval=2, seed=7, train=settings(), optim=CONSTANT)
    with pytest.raises(RunError, match="after 1 rollbacks"):
        loop.run(more, out, quiet)
