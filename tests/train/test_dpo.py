"""Runs on pairs of answers, end to end: what is learned, what the reference is, what is kept."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from runs import quiet

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_model
from ling.config.optim import OptimConfig
from ling.config.recipe import CheckpointConfig
from ling.config.sft import ChatDataConfig, DPOConfig, LoRAConfig, SFTConfig, SFTTrainConfig
from ling.data.tokenizer import train_tokenizer
from ling.errors import UsageError
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop, reference
from ling.train.batches import make_batch
from ling.train.dry_run import dry_run
from ling.train.forward import LingForTraining
from ling.train.log import read_metrics
from ling.train.objectives.answers import log_probabilities
from ling.train.setup import setup

TINY = preset("ling-tiny").replace(num_nextn_predict_layers=0, dtype="float32")
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_model(from_config(TINY, seed=0), TINY, folder)
    train_tokenizer([" ".join(WORDS)] * 20, 300).save(folder)
    return folder


def pair(i):
    """The better answer is the shorter one."""
    words = [WORDS[(i + k) % 10] for k in range(3 + i % 4)]
    return {"prompt": f"say {WORDS[i % 10]}", "chosen": words[0], "rejected": " ".join(words)}


@pytest.fixture
def recipe(model, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair(i)) + "\n" for i in range(16)))

    def make(steps=6, method="lora", interval=2, data=None, lr=None, dpo=None, **train):
        settings = {"global_batch_size": 4, "micro_batch_size": 2, "threads": 1, **train}
        return SFTConfig(
            model=str(model),
            method=method,
            objective="dpo",
            data=ChatDataConfig(**{"files": [str(file)], "seq_length": 128, **(data or {})}),
            train=SFTTrainConfig(steps=steps, dtype="float32", **settings),
            optim=OptimConfig(lr=lr or 3e-3, schedule="constant", weight_decay=0.0),
            lora=LoRAConfig(rank=4, expert_rank=2, alpha=8.0),
            dpo=DPOConfig(**(dpo or {})),
            checkpoint=CheckpointConfig(interval_steps=interval, keep_last=2),
        )

    return make


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """All of them."""


def rows_of(out):
    return read_metrics(out / "metrics.jsonl")


def learned(row):
    """What of a row is the same in a run that was stopped in between."""
    return {k: v for k, v in row.items() if "loss" in k or "reward" in k or "logp" in k}


@torch.no_grad()
def plain_logps(network, row):
    """Of both answers of a pair, each in a pass of its own and with torch's own softmax."""
    start, found = 0, []
    for end in row.borders:
        ids, mask = torch.tensor(row.tokens[start:end]), row.loss_mask[start:end] > 0
        labels = torch.tensor(row.labels[start:end])
        hidden = network(ids, torch.arange(len(ids)), DenseAttend([0, len(ids)]))
        logp = network.logits(hidden).log_softmax(-1).gather(1, labels[:, None])[:, 0]
        found.append(float(logp[torch.tensor(mask)].double().sum()))
        start = end
    return found


@pytest.mark.parametrize(("method", "lr"), [("lora", 3e-3), ("full", 1e-3)])
def test_the_margin_rises(recipe, tmp_path, method, lr):
    out = tmp_path / "run"
    made = recipe(
        method=method,
        lr=lr,
        steps=12,
        interval=100,
        data={"valid_share": 0.25},
        eval_interval_steps=6,
    )
    assert loop.run(made, out, quiet) == 0
    rows = rows_of(out)
    # At first the policy is the reference: nothing is gained, and the loss is log 2.
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert rows[-1]["reward_margin"] > 0.5
    assert rows[-1]["reward_accuracy"] == 1
    assert rows[-1]["loss"] < 0.5
    held = [row for row in rows if "valid_loss" in row]
    assert [row["step"] for row in held] == [6, 12]
    assert held[-1]["valid_loss"] < held[0]["valid_loss"] < np.log(2)
    assert held[-1]["valid_reward_margin"] > held[0]["valid_reward_margin"] > 0
    assert held[-1]["valid_reward_accuracy"] > 0.5
    for row in rows:
        margin = row["chosen_reward"] - row["rejected_reward"]
        assert row["reward_margin"] == pytest.approx(margin, abs=1e-5)
        assert "sft_loss" not in row


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_reference_is_the_base_to_the_bit(recipe, model, tmp_path, method):
    """That of a network without adapters, opened anew, after the run has moved its own."""
    out = tmp_path / "run"
    made = recipe(method=method, data={"valid_share": 0.25}, steps=2)
    run = setup(made, out, quiet)
    loop.Loop(run).run()
    base = LingForTraining(load_model(model))
    files = sorted((out / "reference").iterdir())
    assert [f.name.split("-")[0] for f in files] == ["train", "valid"]
    for file in files:
        pairs = run.rows.pairs[file.name.split("-")[0]]
        kept = np.load(file)
        assert len(kept) == pairs.count > 0
        for number in range(pairs.count):
            row = pairs.pair(number)
            logps = log_probabilities(base, make_batch([row], isolate_documents=True))
            assert torch.equal(logps[0], torch.from_numpy(kept[number]))
            assert kept[number].tolist() == pytest.approx(plain_logps(base.ling, row), rel=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_goes_on_inside_an_epoch_as_if_it_had_not_stopped(recipe, tmp_path, method):
    whole, out = tmp_path / "whole", tmp_path / "run"
    loop.run(recipe(method=method, steps=7), whole, quiet)
    loop.run(recipe(method=method, steps=3), out, quiet)
    said = []
    loop.run(recipe(method=method, steps=7), out, said.append)
    assert not [line for line in said if line.startswith("reference")]
    assert list(map(learned, rows_of(out))) == list(map(learned, rows_of(whole)))


def test_the_pass_over_the_pairs_is_made_once_and_goes_on_where_it_stopped(
    recipe, tmp_path, monkeypatch
):
    out, made, said = tmp_path / "run", [], []
    real = reference.log_probabilities

    def counted(network, batch):
        made.append(int(batch.extra["pair"]))
        if len(made) == 5:
            signal.raise_signal(signal.SIGINT)
        return real(network, batch)

    monkeypatch.setattr(reference, "log_probabilities", counted)
    assert loop.run(recipe(), out, said.append) == 130
    assert "stopped after step 0" in said[-1]
    assert 5 <= len(made) < 16
    assert loop.run(recipe(), out, said.append) == 0
    assert sorted(made) == list(range(16))
    assert any("log-probabilities of 16 of 16 pairs" in line for line in said)
    # Other pairs are another file.
    (file,) = (out / "reference").iterdir()
    loop.run(recipe(steps=1, data={"max_samples": 12}), out.with_name("other"), quiet)
    assert next((out.with_name("other") / "reference").iterdir()).name != file.name


def test_a_lost_reference_is_made_again_only_while_the_base_is_there(recipe, tmp_path):
    for method in ("lora", "full"):
        whole, out = tmp_path / f"{method} whole", tmp_path / method
        loop.run(recipe(method=method, steps=4), whole, quiet)
        loop.run(recipe(method=method, steps=2), out, quiet)
        (file,) = (out / "reference").iterdir()
        file.unlink()
        if method == "full":
            with pytest.raises(UsageError, match="have changed in 2 steps"):
                loop.run(recipe(method=method, steps=4), out, quiet)
        else:
            loop.run(recipe(method=method, steps=4), out, quiet)
            assert list(map(learned, rows_of(out))) == list(map(learned, rows_of(whole)))


def test_a_file_of_other_pairs_in_its_place_is_named(recipe, tmp_path):
    out = tmp_path / "run"
    loop.run(recipe(steps=2), out, quiet)
    (file,) = (out / "reference").iterdir()
    np.save(file, np.zeros((3, 2), np.float32))
    with pytest.raises(UsageError, match=r"not the log-probabilities of these pairs"):
        loop.run(recipe(steps=4), out, quiet)
    file.write_text("no array")
    with pytest.raises(UsageError, match=r"unreadable"):
        loop.run(recipe(steps=4), out, quiet)


def test_a_dry_run_counts_epochs_of_the_pairs_that_are_trained_on(recipe, tmp_path):
    said, out = [], tmp_path / "run"
    made = recipe(steps=6, data={"valid_share": 0.25})
    dry_run(made, out, said.append)
    count = setup(made, out, quiet).rows.pairs["train"].count
    assert count < 16
    assert f"steps: 6 of 4 pairs, {24 / count:.2f} epochs of {count}" in "\n".join(said)


def test_beta_may_not_change_in_a_run(recipe, tmp_path):
    loop.run(recipe(steps=2), tmp_path / "run", quiet)
    with pytest.raises(UsageError, match=r"`dpo.beta` was 0.1 in this run and is now 0.5"):
        loop.run(recipe(steps=4, dpo={"beta": 0.5}), tmp_path / "run", quiet)


def test_conversations_are_no_pairs(recipe, tmp_path):
    said = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": said}) + "\n")
    with pytest.raises(UsageError, match="needs pairs of answers, the data has conversations"):
        loop.run(recipe(data={"files": [str(file)]}), tmp_path / "run", quiet)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"mtp_loss_weight": 0.1}, "train.mtp_loss_weight"),
        ({"data": {"packing": "megatron"}}, "data.packing"),
        ({"data": {"weights": [1.0]}}, "data.weights"),
    ],
)
def test_what_pairs_cannot_have_is_named(recipe, change, key):
    with pytest.raises(UsageError, match=f"`{key}`: `objective: dpo`"):
        recipe(**change)
