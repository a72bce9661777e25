"""What a measurement of the held-out loss may decide: a checkpoint that stays, the end of a run."""

from __future__ import annotations

from functools import partial

import pytest
from runs import quiet, saved_steps
from sft_runs import make_recipe, write_model, write_records

from ling.checkpoint.run_folder import kept
from ling.train import loop
from ling.train.after_held_out import Verdict, asked
from ling.train.log import read_metrics


@pytest.fixture
def recipe(tmp_path):
    write_model(tmp_path / "base")
    write_records(tmp_path / "chat.jsonl")
    return partial(
        make_recipe, tmp_path, interval=1, data={"valid_share": 0.25}, eval_interval_steps=1
    )


def test_all_are_asked_and_one_is_enough():
    called = []

    def answers(verdict):
        return lambda run, held_out: called.append(held_out) or verdict

    hooks = [answers(Verdict(keep=True)), answers(Verdict()), answers(Verdict(stop=True))]
    assert asked(hooks, None, "held out") == Verdict(keep=True, stop=True)
    assert called == ["held out"] * 3
    assert asked([], None, None) == Verdict()


def test_a_kept_checkpoint_outlives_newer_ones_and_a_stop_ends_the_run(
    recipe, tmp_path, one_thread
):
    out, seen = tmp_path / "run", []

    def after(run, held_out):
        seen.append((run.state.step, held_out.loss))
        return Verdict(keep=len(seen) == 1, stop=len(seen) == 4)

    made = recipe(steps=20, early_stop=3)
    assert loop.run(made, out, quiet, after_held_out=[after]) == 0
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert saved_steps(out) == ["step-1", "step-3", "step-4"]
    assert kept(out).name == "step-1"
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["valid_loss"] for row in rows] == [loss for _, loss in seen]
    said = []
    assert loop.run(made, out, said.append, after_held_out=[after]) == 0
    assert "already done (4 steps, ended by `train.early_stop`)" in said[-1]
    # Asked for another early stop, the run goes on.
    loop.run(recipe(steps=6, early_stop=9), out, quiet)
    assert saved_steps(out) == ["step-1", "step-5", "step-6"]
