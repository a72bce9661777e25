"""`objective: dpo` beside trl's DPOTrainer: equal tokens, loss, rewards, gradients and steps."""

from __future__ import annotations

import json

import pytest
import torch
from runs import quiet
from tiny_ling import load, tiny

import ling  # noqa: F401  registers the class
from ling.checkpoint.hf.save import save_model
from ling.config.optim import OptimConfig
from ling.config.sft import ChatDataConfig, DPOConfig, SFTConfig, SFTTrainConfig
from ling.data.tokenizer import train_tokenizer
from ling.train import loop
from ling.train.log import read_metrics
from ling.train.setup import setup

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
from transformers import AutoTokenizer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PAIRS, LR = 8, 1e-3
# Of what both log.
NAMES = {
    "reward_margin": "rewards/margins",
    "reward_accuracy": "rewards/accuracies",
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "chosen_logp": "logps/chosen",
    "rejected_logp": "logps/rejected",
}


def pair(i):
    """Answers of other lengths, in trl's form of conversations."""

    def answer(count, role="assistant"):
        return [{"role": role, "content": " ".join(WORDS[(i + k) % 10] for k in range(count))}]

    return {"prompt": answer(1 + i % 3, "user"), "chosen": answer(2), "rejected": answer(4 + i % 4)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("base"), tiny()
    save_model(model, model.config, folder)
    train_tokenizer([" ".join(WORDS)] * 20, 300).save(folder)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair(i)) + "\n" for i in range(PAIRS)))
    return folder


def recipe(base, steps, **dpo):
    return SFTConfig(
        model=str(base),
        objective="dpo",
        data=ChatDataConfig(files=[str(base / "pairs.jsonl")], seq_length=128),
        train=SFTTrainConfig(
            steps=steps, dtype="float32", global_batch_size=PAIRS, micro_batch_size=PAIRS, threads=1
        ),
        optim=OptimConfig(lr=LR, schedule="constant", warmup_steps=0),
        dpo=DPOConfig(**dpo),
    )


def trainer_of(base, tmp_path, made):
    """trl's, with the settings of a recipe of ours; all pairs are one batch."""
    optim = made.optim
    policy = load(base)
    trained = setup(made, tmp_path / "names", quiet).state.network.ling
    for name, p in trained.named_parameters():  # not the router, not the MTP layer
        policy.get_parameter(name).requires_grad_(p.requires_grad)
    config = trl.DPOConfig(
        tmp_path / "trl", per_device_train_batch_size=PAIRS, max_steps=made.train.steps,
        learning_rate=LR, lr_scheduler_type="constant", adam_beta1=optim.beta1,
        adam_beta2=optim.beta2, adam_epsilon=optim.eps, weight_decay=optim.weight_decay,
        max_grad_norm=made.train.grad_clip, beta=made.dpo.beta, bf16=False,
        gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to=[],
        use_cpu=True,
    )  # fmt: skip
    return trl.DPOTrainer(
        policy, ref_model=load(base), args=config,
        train_dataset=datasets.Dataset.from_list([pair(i) for i in range(PAIRS)]),
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip


def move(policy):
    """Away from the reference, the same way in both; gradients of a first step say little."""
    torch.manual_seed(5)
    with torch.no_grad():
        for _, p in sorted(policy.named_parameters()):
            p.add_(0.2 * p.abs().mean() * torch.randn_like(p))


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_loss_rewards_and_gradients_are_trls(base, tmp_path, beta):
    made = recipe(base, 1, beta=beta)
    trainer = trainer_of(base, tmp_path, made)
    move(trainer.model)
    (inputs,) = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model.train(), inputs)
    loss.backward()

    run = setup(made, tmp_path / "ours", quiet)
    run.objective.begin(run, lambda: False)
    move(run.state.network.ling)
    (batch,) = run.objective.batches(iter([run.reader.read(0, PAIRS)]), 1, lambda counts: counts)
    found = run.objective.losses(run.state.network, batch)
    found.total.backward()

    assert abs(float(loss.detach()) - 0.6931) > 0.003
    assert float(found.total.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    for ours, theirs in NAMES.items():
        (value,) = trainer._metrics["train"][theirs]
        assert float(found.named[ours]) == pytest.approx(value, rel=1e-4, abs=1e-5), ours
    grads = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in grads.values())
    for name, p in run.state.network.ling.named_parameters():
        assert (p.grad is None) == (name not in grads), name
        if p.grad is not None:
            assert (p.grad - grads[name]).abs().max() < 1e-5 * largest, name


def test_steps_are_trls(base, tmp_path):
    made = recipe(base, 5)
    assert loop.run(made, tmp_path / "ours", quiet) == 0
    rows = read_metrics(tmp_path / "ours" / "metrics.jsonl")
    trainer = trainer_of(base, tmp_path, made)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == len(logged) == 5
    for ours, theirs in zip(rows, logged, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
        for name, key in NAMES.items():
            assert ours[name] == pytest.approx(theirs[key], rel=1e-3, abs=1e-3), name
    assert logged[-1]["loss"] < logged[0]["loss"] - 0.1


def test_tokens_are_trls(base, tmp_path):
    """Of every prompt and both answers, the end mark of the template included."""
    made = recipe(base, 1)
    rows = setup(made, tmp_path / "ours", quiet).rows.pairs["train"]
    for number, theirs in enumerate(trainer_of(base, tmp_path, made).train_dataset):
        row, start = rows.pair(number), 0
        for end, name in zip(row.borders, ("chosen_ids", "rejected_ids"), strict=True):
            assert row.tokens[start:end].tolist() == theirs["prompt_ids"] + theirs[name]
            assert int(row.loss_mask[start:end].sum()) == len(theirs[name])
            start = end
