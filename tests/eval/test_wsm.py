"""Merges of a run, and decays from the same checkpoints on the same rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_nano import EVERY, STEPS, make_nano

from ling.checkpoint.load import load_model
from ling.checkpoint.run_folder import checkpoints, step_folder, step_of
from ling.config.recipe_file import load_recipe
from ling.errors import UsageError
from ling.eval.wsm import HeldOutLoss, compare, even_tail, merges
from ling.eval.wsm_plot import draw
from ling.train.log import read_metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Twelve steps at a constant rate, a checkpoint every other one."""
    return make_nano(tmp_path_factory.mktemp("nano")) / "pretrain"


def test_merges_reach_back_as_far_as_checkpoints_are_evenly_apart(run, tmp_path):
    rows = [merge.as_dict() for merge in merges(run)]
    assert {row["window"] for row in rows} == {2, 4, 6, 8, 10}
    assert {row["interval"] for row in rows} == {EVERY, 2 * EVERY, 4 * EVERY}
    assert all(sum(row["weights"]) == pytest.approx(1) for row in rows)
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.copytree(step_folder(copy, 10), step_folder(copy, 11))  # a stop between two of them
    assert [step_of(p) for p in even_tail(copy)] == [2, 4, 6, 8, 10, 12]
    shutil.rmtree(step_folder(copy, 11))
    shutil.rmtree(step_folder(copy, 6))
    assert [p.name for p in even_tail(copy)] == ["step-8", "step-10", "step-12"]
    for step in (2, 4, 8, 10):
        shutil.rmtree(step_folder(copy, step))
    with pytest.raises(UsageError, match="holds 1 checkpoints, merging needs two"):
        even_tail(copy)


def test_decays_take_the_rows_of_the_run_and_end_at_its_step(run, tmp_path, monkeypatch):
    monkeypatch.setattr("ling.eval.wsm.COUNTS", (2, 6))
    report = compare(run, tmp_path, rows=2, log=lambda _: None)
    assert (report["step"], report["lr"]) == (STEPS, 3e-3)
    assert [row["window"] for row in report["decays"]] == [10, 4]
    assert all(row["same_rows"] for row in report["decays"])
    branch = read_metrics(tmp_path / "decay-8-one-minus-sqrt" / "metrics.jsonl")
    assert [row["step"] for row in branch] == [9, 10, 11, 12]
    rates = [row["lr"] for row in branch]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0
    assert all(0 < row["loss"] < 7 for row in (report["last"], *report["merges"]))
    weights = {row["by_part"].keys() == {"prose", "code", "dialogues"} for row in report["merges"]}
    assert weights == {True}
    part = report["last"]["by_part"]
    mixed = (2 * part["prose"] + part["code"] + part["dialogues"]) / 4
    assert report["last"]["loss"] == pytest.approx(mixed)
    picture = draw(json.loads(json.dumps(report)), tmp_path / "wsm.png")
    assert picture is None or picture.stat().st_size > 1000


def test_rows_that_choose_are_others_than_those_that_measure(run):
    recipe = load_recipe(run / "config.yaml")
    network = load_model(checkpoints(run)[-1], "float32")
    score = HeldOutLoss(recipe, 4, network.config.eos_token_id)
    found = score(network)
    score.samples = [[rows[i] for i in (1, 0, 3, 2)] for rows in score.samples]
    turned = score(network)
    assert (found["loss"], found["choosing_loss"]) == (turned["choosing_loss"], turned["loss"])
    assert found["loss"] != found["choosing_loss"]
    with pytest.raises(UsageError, match="1 held-out rows are compared, two or more"):
        HeldOutLoss(recipe, 1, network.config.eos_token_id)


def test_a_run_with_a_decay_and_a_start_that_is_not_there_are_refused(run, tmp_path):
    with pytest.raises(UsageError, match="no checkpoint 5 steps before the last; there are 10, 8"):
        compare(run, tmp_path, decay_steps=[5], log=lambda _: None)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = Path(other / "config.yaml")
    config.write_text(config.read_text().replace("schedule: constant", "schedule: cosine"))
    with pytest.raises(UsageError, match=r"`optim\.schedule` is `cosine`"):
        compare(other, tmp_path, log=lambda _: None)
