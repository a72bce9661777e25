"""Runs of `method: lora`, end to end: what is told, kept, resumed, and gone on from."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from ling.checkpoint.adapter.write import write_adapter
from ling.checkpoint.dcp.folder import DCPFolder
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.run_folder import step_folder
from ling.config.optim import OptimConfig
from ling.config.recipe import CheckpointConfig
from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig, SFTTrainConfig
from ling.data.tokenizer import train_tokenizer
from ling.errors import UsageError
from ling.model.adapter import Adapter, adapter_targets
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop
from ling.train.log import read_metrics
from ling.train.lora.adapter import adapter_in

TINY = preset("ling-tiny").replace(num_nextn_predict_layers=1, dtype="float32")
LORA = LoRAConfig(rank=4, expert_rank=2, alpha=8.0)
WORDS = ["one", "two", "three", "four", "five"]


@pytest.fixture
def recipe(tmp_path, one_thread):
    folder, file = tmp_path / "base", tmp_path / "chat.jsonl"
    folder.mkdir()
    save_model(from_config(TINY, seed=0), TINY, folder)
    train_tokenizer([" ".join(WORDS)] * 20, 300).save(folder)
    said = [(f"say {WORDS[i % 5]}", WORDS[i % 5]) for i in range(16)]
    file.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in said))

    def make(lora=LORA, method="lora", **train):
        settings = {"global_batch_size": 2, "threads": 1, "dtype": "float32", **train}
        return SFTConfig(
            model=str(folder),
            method=method,
            data=ChatDataConfig(files=[str(file)], seq_length=128),
            train=SFTTrainConfig(steps=6, **settings),
            optim=OptimConfig(lr=1e-2, schedule="constant", weight_decay=0.0),
            checkpoint=CheckpointConfig(interval_steps=3),
            lora=lora,
        )

    return make


def losses_of(out):
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl")]


def saved(out, step=6, lora=LORA):
    held = DCPFolder(step_folder(out, step))
    keys = [key for key in held.tensors if key.startswith("model.")]
    tensors = {key.removeprefix("model."): held.tensor(key) for key in keys}
    held.close()
    return tensors, adapter_in(tensors, TINY, lora)


def test_a_run_tells_what_it_trains_and_keeps_nothing_else(recipe, tmp_path):
    told, out = [], tmp_path / "run"
    loop.run(recipe(), out, told.append)
    text = "\n".join(told)
    table = next(t for t in told if t.startswith("trained")).splitlines()
    assert [line.split()[0] for line in table if line.endswith("frozen")] == [
        "embedding", "router", "norms", "mtp", "head",
    ]  # fmt: skip
    assert "no gradient" not in text
    losses = losses_of(out)
    assert losses[-1] < losses[0] - 0.2
    tensors, adapter = saved(out)
    assert set(adapter.matrices) == set(adapter_targets(TINY))
    assert all("lora_" in name for name in tensors)
    assert all(low_rank.b.any() for low_rank in adapter.matrices.values())


def test_a_run_with_dropout_goes_on_as_if_it_had_not_stopped(recipe, tmp_path):
    made = recipe(dataclasses.replace(LORA, dropout=0.2))
    loop.run(made, tmp_path / "whole", lambda text: None)
    half = dataclasses.replace(made, train=dataclasses.replace(made.train, steps=3))
    loop.run(half, tmp_path / "half", lambda text: None)
    loop.run(made, tmp_path / "half", lambda text: None)
    assert losses_of(tmp_path / "half") == losses_of(tmp_path / "whole")
    for name, p in saved(tmp_path / "whole")[0].items():
        assert torch.equal(p, saved(tmp_path / "half")[0][name])


def test_a_run_goes_on_from_an_adapter(recipe, tmp_path):
    loop.run(recipe(), tmp_path / "first", lambda text: None)
    _, adapter = saved(tmp_path / "first")
    write_adapter(tmp_path / "adapter", adapter, TINY, alpha=LORA.alpha)
    again = recipe(dataclasses.replace(LORA, adapter=str(tmp_path / "adapter")))
    loop.run(again, tmp_path / "second", lambda text: None)
    first, second = (losses_of(tmp_path / name) for name in ("first", "second"))
    assert second[0] < first[0] - 0.1
    wider = recipe(dataclasses.replace(again.lora, rank=8))
    with pytest.raises(UsageError, match=r"shape \[4, 64\], the recipe's is \[8, 64\]"):
        loop.run(wider, tmp_path / "third", lambda text: None)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"train_router": True}, "`train.train_router` needs `method: full`"),
        ({"bias_update_rate": 1e-3}, "`train.bias_update_rate` needs `method: full`"),
        (
            {"fp8": "blockwise", "dtype": "bfloat16"},
            "`train.fp8: blockwise` is not made for `method: lora`",
        ),
    ],
)
def test_what_an_adapter_cannot_hold_is_refused(recipe, tmp_path, train, words):
    with pytest.raises(UsageError, match=words):
        loop.run(recipe(**train), tmp_path / "run", lambda text: None)


def test_an_adapter_that_does_not_learn_is_named(recipe, tmp_path, monkeypatch):
    from ling.train.lora.modules import LoRALinear

    applied = LoRALinear.forward

    def forgets(self, x_TK):
        return self.base(x_TK) if self.lora_B.shape[0] == 128 else applied(self, x_TK)

    monkeypatch.setattr(LoRALinear, "forward", forgets)
    told = []
    loop.run(recipe(), tmp_path / "run", told.append)
    (warning,) = [text for text in told if "no gradient" in text]
    assert "model.layers.0.attention.query_key_value" in warning
    assert isinstance(saved(tmp_path / "run")[1], Adapter)
