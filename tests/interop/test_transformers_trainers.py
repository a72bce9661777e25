"""trl and peft on the transformers class. Skipped where trl is not installed."""

from __future__ import annotations

import pytest
import torch
from tiny_ling import TEXTS, load

import ling  # noqa: F401  registers the class
from ling.checkpoint.load import load_model

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
from transformers import AutoTokenizer  # noqa: E402

LORA = {
    "r": 4,
    "target_modules": ["query_key_value", "dense", "gate_proj", "up_proj", "down_proj"],
    "target_parameters": ["experts.gate_proj", "experts.up_proj", "experts.down_proj"],
    "task_type": "CAUSAL_LM",
}


@pytest.fixture(autouse=True)
def _own_precision(monkeypatch):
    """transformers 4 hands `bf16` to accelerate by the environment, also that of the next test."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def arguments(config, tmp_path, **options):
    return config(
        tmp_path / "run", max_steps=6, per_device_train_batch_size=2, learning_rate=3e-3, seed=1,
        logging_steps=1, save_strategy="no", report_to=[], use_cpu=True,
        **{"bf16": False, **options},
    )  # fmt: skip


def sft(folder, tmp_path, rows, peft_config=None, **options):
    trainer = trl.SFTTrainer(
        load(folder), arguments(trl.SFTConfig, tmp_path, **options), peft_config=peft_config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )  # fmt: skip
    trainer.train()
    return trainer, [x["loss"] for x in trainer.state.log_history if "loss" in x]


@pytest.mark.parametrize("options", [{}, {"bf16": True, "pad_to_multiple_of": 16}])
def test_sft_learns_and_its_folder_is_ours(folder, tmp_path, options):
    chat = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": TEXTS[0]},
    ]
    trainer, losses = sft(folder, tmp_path, [{"messages": chat}] * 16, **options)
    assert losses[-1] < losses[0] * 0.9
    trainer.save_model(tmp_path / "saved")
    trained, saved = trainer.model.state_dict(), load(tmp_path / "saved").state_dict()
    assert all(torch.equal(saved[name], value) for name, value in trained.items())
    assert load_model(tmp_path / "saved").config.num_experts


def test_loss_of_sft_is_the_main_loss_of_the_class(folder, tmp_path):
    # Releases differ in whether a first label, which nothing predicts, counts: it has none here.
    row = {"input_ids": list(range(3, 40)), "completion_mask": [0] + [1] * 36}
    _, losses = sft(folder, tmp_path, [row] * 16, completion_only_loss=True)
    ids = torch.tensor([row["input_ids"]])
    with torch.no_grad():
        out = load(folder)(ids, labels=ids)
    main = out.loss - load(folder).config.mtp_loss_scaling_factor * out.mtp_loss[0]
    assert abs(losses[0] - main.item()) < 1e-3


def test_packed_sft_sees_documents_one_by_one(folder, tmp_path):
    """The first loss of packed rows is that of the rows alone: their mean over trained tokens."""
    rows = [{"input_ids": [3 + (7 * n + i) % 200 for i in range(5 + n)]} for n in range(16)]
    _, losses = sft(folder, tmp_path, rows, packing=True, max_length=256)
    model, total, tokens = load(folder), 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            scores = model(ids).logits[0, :-1].log_softmax(-1)
        total -= scores.gather(1, ids[0, 1:, None]).sum().item()
        tokens += ids.shape[1] - 1
    assert abs(losses[0] - total / tokens) < 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_of_an_adapter(folder, tmp_path, checkpointing):
    peft = pytest.importorskip("peft")
    trainer, losses = sft(
        folder, tmp_path, [{"text": text} for text in TEXTS * 8], peft.LoraConfig(**LORA),
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    assert losses[-1] < losses[0]
    trainer.save_model(tmp_path / "adapter")
    merged = peft.PeftModel.from_pretrained(load(folder), tmp_path / "adapter").merge_and_unload()
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        want = trainer.model.eval()(input_ids=ids).logits
        assert torch.allclose(merged(ids).logits, want, atol=1e-3)


def test_dpo_learns_the_preference(folder, tmp_path):
    rows = [{"prompt": "def", "chosen": TEXTS[0], "rejected": TEXTS[1]}] * 16
    trainer = trl.DPOTrainer(
        load(folder), ref_model=load(folder), args=arguments(trl.DPOConfig, tmp_path),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )  # fmt: skip
    trainer.train()
    losses = [x["loss"] for x in trainer.state.log_history if "loss" in x]
    assert losses[-1] < losses[0] < 0.7
