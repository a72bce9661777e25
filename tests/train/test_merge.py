"""Merged checkpoints are weighed means of the newest ones, and of whole ones only."""

from __future__ import annotations

import json

import pytest
import torch

from ling.checkpoint.dcp.folder import DCPFolder
from ling.checkpoint.dcp.parts import write_tensors
from ling.checkpoint.run_folder import step_folder, write_manifest
from ling.config.optim import OptimConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.errors import CheckpointError, UsageError
from ling.train.merge import merge
from ling.train.schedule import merge_weights


@pytest.fixture
def parts(tmp_path):
    """The tensors of four checkpoints of a run."""
    parts = {}
    for step in (2, 4, 6, 10):
        folder = step_folder(tmp_path / "run", step)
        folder.mkdir(parents=True)
        parts[step] = {
            "model.weight": torch.randn(3, 4),
            "model.gate.expert_bias": torch.randn(5),
            "model.half": torch.randn(2, 2).bfloat16(),
        }
        write_tensors(folder, {**parts[step], "optimizer.exp_avg.weight": torch.ones(3, 4)})
        (folder / "config.json").write_text(json.dumps({"step": step}))
        write_manifest(folder)
    (tmp_path / "run/tokenizer").mkdir()
    (tmp_path / "run/tokenizer/tokenizer.json").write_text("{}")
    return parts


@pytest.mark.parametrize(
    ("last", "schedule"), [(1, "mean"), (3, "mean"), (3, "linear"), (3, "one-minus-sqrt")]
)
def test_every_tensor_is_the_weighed_sum_of_the_newest(parts, tmp_path, last, schedule):
    out = tmp_path / "merged"
    names = merge(tmp_path / "run", out, last=last, schedule=schedule)
    chosen = [4, 6, 10][-last:]
    assert names == [f"step-{n}" for n in chosen]
    weights = merge_weights(last - 1, schedule)
    merged = DCPFolder(out)
    assert set(merged.tensors) == set(parts[4])  # no optimizer
    for name in merged.tensors:
        want = sum(w * parts[n][name].double() for w, n in zip(weights, chosen, strict=True))
        got = merged.tensor(name)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=1e-6)
    merged.close()
    note = {"from": names, "schedule": schedule, "weights": weights}
    assert json.loads((out / "merged.json").read_text()) == note
    assert json.loads((out / "config.json").read_text()) == {"step": 10}
    assert (out / "tokenizer/tokenizer.json").is_file()


def test_a_checkpoint_that_a_stop_left_between_others_is_passed_over(parts, tmp_path):
    run = tmp_path / "run"  # of steps 2, 4, 6 and 10
    step_folder(run, 6).rename(step_folder(run, 7))
    assert merge(run, tmp_path / "even", last=3, interval=2) == ["step-2", "step-4", "step-10"]
    with pytest.raises(UsageError, match="holds 3 checkpoints, asked for 4"):
        merge(run, tmp_path / "more", last=4, interval=2)


def note_of(out):
    return json.loads((out / "merged.json").read_text())


def test_a_decay_over_steps_takes_the_checkpoints_that_it_reaches(parts, tmp_path):
    run, out = tmp_path / "run", tmp_path / "merged"
    assert merge(run, out, decay_steps=5, schedule="linear") == ["step-4", "step-6", "step-10"]
    # Rates of steps 5 to 10: 1, then 0.8, 0.6, 0.4, 0.2, 0 of the peak.
    first, second = (1 + 0.8) / 2, (0.6 + 0.4 + 0.2 + 0) / 4
    assert note_of(out)["weights"] == pytest.approx([1 - first, first - second, second])
    for wrong, word in [(9, "begins at step 1, the oldest checkpoint is step-2"), (0, "0 steps")]:
        with pytest.raises(UsageError, match=word):
            merge(run, tmp_path / "other", decay_steps=wrong, schedule="linear")
    with pytest.raises(UsageError, match="`mean` with `--last`"):
        merge(run, tmp_path / "other", decay_steps=5)


def test_the_rates_of_a_recipe_are_merge_weights(parts, tmp_path):
    def recipe(**optim):
        train = TrainConfig(steps=10)
        return PretrainConfig(
            model="x", data=DataConfig(prefix=["x"]), train=train, optim=OptimConfig(**optim)
        )

    run, out = tmp_path / "run", tmp_path / "merged"
    wsd = {"schedule": "wsd", "decay_steps": 4, "decay_shape": "linear"}
    merge(run, out, last=4, like=recipe(**wsd))
    assert note_of(out)["weights"] == pytest.approx([0, 0, 0.625, 0.375])
    assert note_of(out)["schedule"] == "like"
    with pytest.raises(UsageError, match="from at most 1 to 0"):
        merge(run, tmp_path / "other", last=4, like=recipe(warmup_steps=6))
    for wrong in ({"schedule": "cosine", "last": 2}, {"decay_steps": 4}):
        with pytest.raises(UsageError, match="`--like` has its own schedule"):
            merge(run, tmp_path / "other", like=recipe(), **wrong)


def test_how_many_is_said_once(parts, tmp_path):
    for both in ({}, {"last": 2, "decay_steps": 2}):
        with pytest.raises(UsageError, match="give either `--last`"):
            merge(tmp_path / "run", tmp_path / "merged", **both)


def test_what_cannot_be_merged_leaves_nothing(parts, tmp_path):
    run, out = tmp_path / "run", tmp_path / "merged"
    for last in (0, -1, 5):
        with pytest.raises(UsageError, match=f"holds 4 checkpoints, asked for {last}"):
            merge(run, out, last=last)
    with pytest.raises(UsageError, match="no merge schedule `magic`"):
        merge(run, out, last=2, schedule="magic")
    assert not out.exists()
    with pytest.raises(UsageError, match="exists"):
        merge(run, run, last=2)


def test_damaged_checkpoint_is_not_merged(parts, tmp_path):
    data = next(step_folder(tmp_path / "run", 4).glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="step-4: damaged"):
        merge(tmp_path / "run", tmp_path / "merged", last=3)
    assert not (tmp_path / "merged").exists()
    assert merge(tmp_path / "run", tmp_path / "merged", last=2) == ["step-6", "step-10"]
