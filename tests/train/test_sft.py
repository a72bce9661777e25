"""Fine-tuning runs of a tiny model, end to end: what is trained, resumed, kept and refused."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import pytest
import torch
import yaml
from runs import logged_losses, quiet
from sft_runs import TINY, make_recipe, write_model, write_records

from ling.checkpoint.load import load_model
from ling.convert.plan import convert
from ling.errors import CheckpointError, UsageError
from ling.train import loop
from ling.train.log import read_metrics
from ling.train.merge import merge
from ling.train.objectives.sft import FineTuning
from ling.train.report.page import page
from ling.train.report.runs import read_runs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


@pytest.fixture
def recipe(model, tmp_path):
    write_records(tmp_path / "chat.jsonl")
    (tmp_path / "base").symlink_to(model)
    return partial(make_recipe, tmp_path)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """All of them."""


def changed(recipe, section, **fields):
    """With other values in a section."""
    value = dataclasses.replace(getattr(recipe, section), **fields)
    return dataclasses.replace(recipe, **{section: value})


def test_a_run_lowers_its_loss_and_leaves_what_is_frozen(recipe, model, tmp_path):
    out = tmp_path / "run"
    assert loop.run(recipe(steps=12, interval=100), out, quiet) == 0
    losses = [loss for _, loss, _ in logged_losses(out)]
    assert losses[-1] < losses[0] - 0.5
    before, after = (load_model(p).state_dict() for p in (model, out))
    moved = {name for name, w in after.items() if not torch.equal(w, before[name])}
    frozen = {
        n for n in after if ".gate." in n or n.startswith(f"model.layers.{TINY.num_hidden_layers}.")
    }
    assert moved == set(after) - frozen
    assert "expert_bias" in " ".join(frozen)


def test_epochs_become_steps_and_the_saved_recipe_says_so(recipe, tmp_path):
    out, said = tmp_path / "run", []
    assert loop.run(recipe(steps=0, epochs=2.0), out, said.append) == 0
    saved = yaml.safe_load((out / "config.yaml").read_text())
    steps = saved["train"]["steps"]
    assert steps == len(read_metrics(out / "metrics.jsonl")) > 2
    assert saved["train"]["epochs"] == 2.0
    assert saved["method"] == "full"
    # The same command again, and one with fewer epochs than are done.
    for epochs in (2.0, 1.0):
        assert loop.run(recipe(steps=0, epochs=epochs), out, said.append) == 0
        assert f"already done ({steps} steps)" in said[-1]
    # Longer rows take fewer steps: what is named is what was changed.
    longer = changed(recipe(steps=0, epochs=2.0), "data", seq_length=256)
    with pytest.raises(UsageError, match=r"`data\.seq_length` was 128 .* now 256"):
        loop.run(longer, out, quiet)
    assert loop.run(recipe(steps=0, epochs=3.0), out, said.append) == 0
    assert len(read_metrics(out / "metrics.jsonl")) > steps


def test_a_run_goes_on_inside_an_epoch_as_if_it_had_not_stopped(recipe, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    loop.run(recipe(steps=7), whole, quiet)
    loop.run(recipe(steps=3), out, quiet)
    loop.run(recipe(steps=7, show_samples=0, show_tokens=3), out, quiet)  # changes nothing learned
    assert logged_losses(out) == logged_losses(whole)


@pytest.mark.parametrize(
    ("section", "fields", "words"),
    [
        ("data", {"seq_length": 64}, "data.seq_length` was 128 in this run and is now 64"),
        ("train", {"seed": 7}, "train.seed` was 1234 in this run and is now 7"),
        ("data", {"max_samples": 20}, "or how they are read, changed"),
        ("optim", {"lr": 1e-4}, "`optim.lr` was 0.001"),
        ("train", {"train_router": True}, "`train.train_router` was False"),
    ],
)
def test_what_may_not_change_is_named(recipe, tmp_path, section, fields, words):
    out = tmp_path / "run"
    loop.run(recipe(steps=2), out, quiet)
    with pytest.raises(UsageError, match=words):
        loop.run(changed(recipe(steps=4), section, **fields), out, quiet)


def test_what_is_shown_may_change(recipe, tmp_path):
    out = tmp_path / "run"
    loop.run(recipe(steps=1), out, quiet)
    shown = changed(recipe(steps=2), "train", show_samples=1, show_tokens=7, early_stop=0)
    assert loop.run(shown, out, quiet) == 0


def test_a_run_folder_of_the_other_kind_is_refused(recipe, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text("model: ling-tiny\ntrain:\n  steps: 3\n")
    with pytest.raises(UsageError, match="a run of `ling pretrain`"):
        loop.run(recipe(), out, quiet)


def test_a_shape_without_weights_is_refused(recipe, tmp_path):
    (tmp_path / "shape").mkdir()
    (tmp_path / "shape/config.json").write_text(json.dumps(TINY.to_dict()))
    shape = dataclasses.replace(recipe(), model=str(tmp_path / "shape"))
    with pytest.raises(UsageError, match="a configuration without weights"):
        loop.run(shape, tmp_path / "run", quiet)


def test_rows_of_bad_steps_are_left_out_after_going_back(recipe, tmp_path, monkeypatch):
    losses, seen = FineTuning.losses, []

    def spoiled(self, network, batch):
        found = losses(self, network, batch)
        seen.append(batch.first_row)
        if batch.first_row in (4, 6):  # in steps 3 and 4
            found.named["loss"] = found.named["loss"] * float("nan")
        return found

    monkeypatch.setattr(FineTuning, "losses", spoiled)
    out, said = tmp_path / "run", []
    made = recipe(steps=5, interval=2, max_nonfinite=2, rollback=1)
    assert loop.run(made, out, said.append) == 0
    (line,) = [text for text in said if "rollback" in text]
    assert "back to step-2, rows 4 to 7 are left out" in line
    assert seen == [*range(8), *range(8, 14)]
    assert [step for step, *_ in logged_losses(out)] == [1, 2, 3, 4, 5]


def test_reports_and_merges_take_a_fine_tuning(recipe, model, tmp_path):
    out = tmp_path / "run"
    assert loop.run(recipe(steps=4, data={"valid_share": 0.25}), out, quiet) == 0
    rows = read_metrics(out / "metrics.jsonl")
    assert all(0 < row["trained_tokens"] < row["tokens"] for row in rows)
    assert all(0 < row["trained_tokens_per_s"] < row["tokens_per_s"] for row in rows)
    assert not any("mfu" in row for row in rows), "of weights that are frozen it would be wrong"
    assert "data.files" in page(read_runs([out]))
    merge(out, tmp_path / "merged", last=2)
    assert load_model(tmp_path / "merged").config.hidden_size == TINY.hidden_size
    assert any(p.suffix == ".png" for p in out.iterdir())


def test_checkpoints_of_adapters_are_no_models(recipe, tmp_path):
    out = tmp_path / "run"
    assert loop.run(recipe(steps=2, method="lora"), out, quiet) == 0
    whole, again = recipe(steps=4, method="lora"), tmp_path / "again"
    loop.run(whole, again, quiet)
    loop.run(whole, out, quiet)
    assert logged_losses(out) == logged_losses(again)
    with pytest.raises(CheckpointError, match=r"holds adapters of .*base, not a model"):
        load_model(out)
    with pytest.raises(CheckpointError, match="holds adapters"):
        merge(out, tmp_path / "merged", last=2)


def test_integers_are_no_start_of_a_full_fine_tuning(recipe, model, tmp_path):
    convert(model, tmp_path / "int8", to="int8")
    over = dataclasses.replace(recipe(), model=str(tmp_path / "int8"))
    with pytest.raises(UsageError, match="holds integers: name the folder that it was converted"):
        loop.run(over, tmp_path / "run", quiet)
