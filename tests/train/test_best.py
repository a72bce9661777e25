"""Which checkpoint is kept, and when a run ends because it gets no better."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ling.train.after_held_out import Verdict
from ling.train.best import KeepBest, measured
from ling.train.heldout import HeldOut
from ling.train.parallel.group import ALONE

NAN = float("nan")


def run_in(folder, said=None):
    log = [].append if said is None else said.append
    return SimpleNamespace(out=folder, log=log, state=SimpleNamespace(step=0, world=ALONE))


def verdicts(keep_best, run, losses):
    """Of measurements after steps 1, 2, ..."""
    found = []
    for step, loss in enumerate(losses, 1):
        run.state.step = step
        found.append(keep_best(run, HeldOut(loss, 10, None, None)))
    return found


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ([3.0, 2.0, 2.5, 1.0], [1, 1, 0, 1]),
        ([2.0, 2.0], [1, 0]),  # equal is no better
        ([2.0, NAN, 1.0], [1, 0, 1]),
        ([NAN, 2.0, NAN], [1, 1, 0]),
    ],
)
def test_the_lowest_loss_so_far_is_kept(tmp_path, losses, kept):
    found = verdicts(KeepBest(), run_in(tmp_path), losses)
    assert [v.keep for v in found] == [bool(k) for k in kept]
    assert not any(v.stop for v in found)


def test_a_run_ends_after_as_many_measurements_without_a_better_one(tmp_path):
    said = []
    found = verdicts(KeepBest(2), run_in(tmp_path, said), [3.0, 2.0, 2.5, 2.1])
    assert [v.stop for v in found] == [False, False, False, True]
    assert "than 2.0000 of step 2" in said.pop()
    assert said == [
        "step 1: held-out loss 3.0000, the lowest",
        "step 2: held-out loss 2.0000, the lowest",
        "step 3: held-out loss 2.5000; the lowest is 2.0000 of step 2",
        "step 4: held-out loss 2.1000; the lowest is 2.0000 of step 2",
    ]


def test_what_was_measured_before_counts_when_a_run_continues(tmp_path):
    rows = [{"step": 1, "valid_loss": 1.0}, {"step": 2}, {"step": 3, "valid_loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert measured(tmp_path) == [(1, 1.0), (3, 2.0)]
    run = run_in(tmp_path)
    run.state.step = 4
    assert KeepBest(2)(run, HeldOut(1.5, 10, None, None)) == Verdict(keep=False, stop=True)
    assert KeepBest(3)(run, HeldOut(1.5, 10, None, None)) == Verdict()
    # Step 3 is done again: what it gave the first time is forgotten.
    run.state.step = 3
    assert KeepBest(1)(run, HeldOut(0.5, 10, None, None)) == Verdict(keep=True)


def test_steps_behind_a_rollback_are_forgotten(tmp_path):
    keep_best, run = KeepBest(2), run_in(tmp_path)
    verdicts(keep_best, run, [2.0, 1.0, 3.0])
    run.state.step = 2  # step 2 again, and worse
    assert keep_best(run, HeldOut(1.5, 10, None, None)) == Verdict(keep=True)
