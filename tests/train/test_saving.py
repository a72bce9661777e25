"""Checkpoints written while steps go on: the same bytes, whole or not at all, one at a time."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
from runs import logged_losses, quiet, saved_steps
from small_runs import stop_after

from ling.errors import RunError
from ling.train import loop, saving
from ling.train.loop import Loop
from ling.train.objectives.pretrain import Pretraining
from ling.train.setup import setup


@pytest.fixture
def behind(recipe):
    """Recipes that save in the background."""

    def make(**fields):
        made = recipe(**fields)
        return dataclasses.replace(
            made, checkpoint=dataclasses.replace(made.checkpoint, async_save=True)
        )

    return make


class Slow:
    """A writer that needs a second in a thread of its own, and none where a run waits for it."""

    def __init__(self, monkeypatch):
        self.write, self.begun = saving.write_part, threading.Event()
        monkeypatch.setattr(saving, "write_part", self)

    def __call__(self, *args):
        for hashes in self.write(*args):
            self.begun.set()
            if threading.current_thread() is not threading.main_thread():
                time.sleep(1)
            yield hashes


def stepped(run, steps):
    for _ in range(steps):
        run._step()
        run.saver.advance()


def looped(recipe, out):
    run = Loop(setup(recipe, out, quiet))
    run.peak = 1.0
    return run


@pytest.fixture
def ready(behind, tmp_path):
    """A loop whose steps a test takes."""
    return looped(behind(steps=20), tmp_path / "run")


def test_both_ways_write_the_same_bytes(recipe, behind, tmp_path):
    for name, make in (("sync", recipe), ("async", behind)):
        assert loop.run(make(), tmp_path / name, quiet) == 0
    for step in ("step-4", "step-6"):
        a, b = (tmp_path / name / "checkpoints" / step for name in ("sync", "async"))
        assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())
        for path in a.iterdir():
            assert path.read_bytes() == (b / path.name).read_bytes(), path.name
    assert logged_losses(tmp_path / "sync") == logged_losses(tmp_path / "async")


def test_a_checkpoint_holds_the_state_of_its_step_though_steps_went_on(
    ready, recipe, tmp_path, monkeypatch
):
    slow = Slow(monkeypatch)
    stepped(ready, 2)
    ready.saver.save()
    assert slow.begun.wait(60)
    stepped(ready, 3)
    assert saved_steps(tmp_path / "run") == []
    ready.saver.finish()
    assert saved_steps(tmp_path / "run") == ["step-2"]
    at_once = looped(recipe(steps=20), tmp_path / "sync")
    stepped(at_once, 2)
    at_once.saver.save()
    name = "checkpoints/step-2/__0_0.distcp"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "sync" / name).read_bytes()


def test_the_next_save_ends_the_one_before(ready, tmp_path, monkeypatch):
    Slow(monkeypatch)
    stepped(ready, 1)
    ready.saver.save()
    stepped(ready, 1)
    ready.saver.save()
    assert saved_steps(tmp_path / "run") == ["step-1"]
    ready.saver.finish()
    assert saved_steps(tmp_path / "run") == ["step-1", "step-2"]


def test_a_checkpoint_appears_after_the_step_in_which_it_was_written(ready, tmp_path):
    stepped(ready, 1)
    ready.saver.save()
    end = time.monotonic() + 60
    while saved_steps(tmp_path / "run") == [] and time.monotonic() < end:
        time.sleep(0.01)
        ready.saver.advance()
    assert saved_steps(tmp_path / "run") == ["step-1"]


def test_a_signal_and_an_error_of_a_step_wait_for_it(behind, recipe, tmp_path, monkeypatch):
    assert loop.run(recipe(), tmp_path / "whole", quiet) == 0
    Slow(monkeypatch)
    catch = Loop._catch_signals
    monkeypatch.setattr(Loop, "_catch_signals", stop_after(3))
    assert loop.run(behind(), tmp_path / "run", quiet) == 143
    assert saved_steps(tmp_path / "run") == ["step-2", "step-3"]
    monkeypatch.setattr(Loop, "_catch_signals", catch)
    losses = Pretraining.losses

    def spoiled(self, network, batch):
        found = losses(self, network, batch)
        found.named["loss"] = found.named["loss"] * float("nan")
        return found

    monkeypatch.setattr(Pretraining, "losses", spoiled)
    with pytest.raises(RunError, match="not finite 5 times"):
        loop.run(behind(steps=20), tmp_path / "nan", quiet)
    assert saved_steps(tmp_path / "nan") == ["step-2", "step-4"]
    monkeypatch.undo()
    assert loop.run(behind(), tmp_path / "run", quiet) == 0
    assert logged_losses(tmp_path / "run") == logged_losses(tmp_path / "whole")


def test_a_full_disk_ends_the_run_at_the_next_step_and_leaves_what_was_there(
    behind, recipe, tmp_path, monkeypatch
):
    assert loop.run(recipe(), tmp_path / "whole", quiet) == 0

    def full(layout, folder, *more):
        yield {}
        (folder / layout.file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    writes = iter([saving.write_part, full])
    monkeypatch.setattr(saving, "write_part", lambda *a: next(writes)(*a))
    out = tmp_path / "run"
    with pytest.raises(RunError, match="could not save checkpoint step-4: No space left"):
        loop.run(behind(), out, quiet)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-2"]
    monkeypatch.undo()
    assert loop.run(behind(), out, quiet) == 0
    assert logged_losses(out) == logged_losses(tmp_path / "whole")


def test_what_is_written_when_an_error_ends_the_run_is_left_out(ready, tmp_path, monkeypatch):
    slow = Slow(monkeypatch)
    stepped(ready, 1)
    ready.saver.save()
    assert slow.begun.wait(60)
    ready.saver.abandon()
    assert list((tmp_path / "run/checkpoints").iterdir()) == []
