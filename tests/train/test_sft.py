"""Fine-tuning runs of a tiny model, end to end: what is trained, resumed, kept and refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import yaml
from runs import logged_losses, quiet, saved_steps

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.checkpoint.run_folder import kept
from ling.config.optim import OptimConfig
from ling.config.recipe import CheckpointConfig
from ling.config.sft import ChatDataConfig, SFTConfig, SFTTrainConfig
from ling.data.tokenizer import train_tokenizer
from ling.errors import UsageError
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop
from ling.train.after_held_out import Verdict
from ling.train.log import read_metrics

TINY = preset("ling-tiny").replace(num_nextn_predict_layers=1, dtype="float32")
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    network = from_config(TINY, seed=0)
    save_model(network, TINY, folder)
    train_tokenizer([" ".join(WORDS)] * 20, 300).save(folder)
    return folder


def record(i):
    said = " ".join(WORDS[(i + k) % 10] for k in range(1 + i % 6))
    asked = {"role": "user", "content": f"say {WORDS[i % 10]}"}
    return {"messages": [asked, {"role": "assistant", "content": said}]}


@pytest.fixture
def recipe(model, tmp_path):
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(record(i)) + "\n" for i in range(24)))

    def make(steps=6, interval=2, epochs=1.0, data=None, lr=1e-3, **train):
        settings = {"global_batch_size": 2, "micro_batch_size": 1, "threads": 1, **train}
        return SFTConfig(
            model=str(model),
            data=ChatDataConfig(files=[str(file)], **{"seq_length": 128, **(data or {})}),
            train=SFTTrainConfig(steps=steps, epochs=epochs, dtype="float32", **settings),
            optim=OptimConfig(lr=lr, schedule="constant"),
            checkpoint=CheckpointConfig(interval_steps=interval, keep_last=2),
        )

    return make


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
    assert loop.run(recipe(steps=0, epochs=2.0), out, said.append) == 0
    assert "already done" in said[-1]
    assert loop.run(recipe(steps=0, epochs=3.0), out, said.append) == 0
    assert len(read_metrics(out / "metrics.jsonl")) > steps


def test_a_run_goes_on_inside_an_epoch_as_if_it_had_not_stopped(recipe, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    loop.run(recipe(steps=7), whole, quiet)
    loop.run(recipe(steps=3), out, quiet)
    loop.run(recipe(steps=7), out, quiet)
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


# ---- the held-out loss -------------------------------------------------------------------------


def test_a_kept_checkpoint_outlives_newer_ones_and_a_stop_ends_the_run(recipe, tmp_path):
    out, seen = tmp_path / "run", []

    def after(run, held_out):
        seen.append((run.state.step, held_out.loss))
        return Verdict(keep=len(seen) == 1, stop=len(seen) == 4)

    made = recipe(
        steps=20, interval=1, data={"valid_share": 0.25}, eval_interval_steps=1, early_stop=3
    )
    assert loop.run(made, out, quiet, after_held_out=[after]) == 0
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert saved_steps(out) == ["step-1", "step-3", "step-4"]
    assert kept(out).name == "step-1"
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["valid_loss"] for row in rows] == [loss for _, loss in seen]
    said = []
    assert loop.run(made, out, said.append, after_held_out=[after]) == 0
    assert "already done (4 steps)" in said[-1]
    # Asked for another early stop, the run goes on.
    loop.run(changed(changed(made, "train", early_stop=9), "train", steps=6), out, quiet)
    assert saved_steps(out)[-1] == "step-6"
