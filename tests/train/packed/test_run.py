"""A run of `method: qlora`, end to end: what it keeps, and that it goes on as if never stopped."""

from __future__ import annotations

import dataclasses
import json

import torch

from ling.checkpoint.dcp.folder import DCPFolder
from ling.checkpoint.run_folder import step_folder
from ling.config.optim import OptimConfig
from ling.config.recipe import CheckpointConfig
from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig, SFTTrainConfig
from ling.convert.synth import synth
from ling.data.tokenizer import train_tokenizer
from ling.presets import preset
from ling.train import loop
from ling.train.log import read_metrics

WORDS = ["one", "two", "three", "four", "five"]


def quiet(text):
    """A log that nobody reads."""


def recipe(folder):
    base, file = folder / "base", folder / "chat.jsonl"
    synth(preset("ling-tiny"), base, to="int4", log=quiet)
    train_tokenizer([" ".join(WORDS)] * 20, 300).save(base)
    said = [{"prompt": f"say {WORDS[i % 5]}", "response": WORDS[i % 5]} for i in range(16)]
    file.write_text("".join(json.dumps(record) + "\n" for record in said))
    return SFTConfig(
        model=str(base),
        method="qlora",
        data=ChatDataConfig(files=[str(file)], seq_length=128),
        train=SFTTrainConfig(steps=6, global_batch_size=2, threads=1),
        optim=OptimConfig(lr=1e-2, schedule="constant", weight_decay=0.0),
        checkpoint=CheckpointConfig(interval_steps=3),
        lora=LoRAConfig(rank=4, expert_rank=2),
    )


def saved(out):
    held = DCPFolder(step_folder(out, 6))
    found = {key: held.tensor(key) for key in held.tensors if key.startswith("model.")}
    held.close()
    return found


def test_a_run_learns_keeps_adapters_alone_and_can_be_resumed(tmp_path, one_thread):
    made = recipe(tmp_path)
    loop.run(made, tmp_path / "whole", quiet)
    losses = [row["loss"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.2
    half = dataclasses.replace(made, train=dataclasses.replace(made.train, steps=3))
    loop.run(half, tmp_path / "half", quiet)
    loop.run(made, tmp_path / "half", quiet)
    first, second = saved(tmp_path / "whole"), saved(tmp_path / "half")
    assert set(first) == set(second)
    assert all("lora_" in name for name in first)
    assert all(torch.equal(p, second[name]) for name, p in first.items())
