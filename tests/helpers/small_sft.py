"""A small model with a tokenizer, records about it, and recipes of seconds."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_ling import write_folder

from ling.config.recipe import CheckpointConfig
from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig, SFTOptimConfig, SFTTrainConfig

WORDS = ("add", "range", "print", "return", "def")


def write_records(path: Path, count: int, first: int = 0) -> None:
    """Two turns each; all records differ."""
    with path.open("w") as file:
        for n in range(first, first + count):
            word = WORDS[n % len(WORDS)]
            messages = [
                {"role": "user", "content": f"{word} {n}"},
                {"role": "assistant", "content": f"{word}(a, b)"},
                {"role": "user", "content": "again"},
                {"role": "assistant", "content": f"{word} {word}"},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def write_model(folder: Path) -> Path:
    """`folder`/base and records beside it."""
    (folder / "base").mkdir(parents=True)
    write_folder(folder / "base")
    write_records(folder / "train.jsonl", 24)
    write_records(folder / "valid.jsonl", 4, 100)
    return folder / "base"


def recipe(folder: Path, *, method="full", data=None, train=None, lr=1e-3, **more) -> SFTConfig:
    """A recipe on the files of `write_model`; `data` and `train` are fields that differ."""
    sections = {
        "data": {
            "files": [str(folder / "train.jsonl")],
            "valid_files": [str(folder / "valid.jsonl")],
            "seq_length": 128,
        },
        "train": {
            "steps": 4,
            "global_batch_size": 2,
            "eval_interval_steps": 2,
            "show_tokens": 8,
            "dtype": "float32",
            "threads": 1,
            "loggers": [],
        },
    }
    return SFTConfig(
        model=str(folder / "base"),
        method=method,
        data=ChatDataConfig(**{**sections["data"], **(data or {})}),
        train=SFTTrainConfig(**{**sections["train"], **(train or {})}),
        optim=SFTOptimConfig(lr=lr),
        lora=LoRAConfig(rank=4, expert_rank=2),
        checkpoint=CheckpointConfig(interval_steps=100, keep_last=1),
        **more,
    )
