"""Runs on pairs of one small model in several layouts: `torchrun dpo_layouts.py FOLDER [all]`.

FOLDER/model has the weights, FOLDER/pairs.jsonl the pairs; FOLDER/<layout> is the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from ling.checkpoint.hf.save import save_model
from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.sft import ChatDataConfig, DPOConfig, LoRAConfig, SFTConfig, SFTTrainConfig
from ling.data.tokenizer import train_tokenizer
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop
from ling.train.parallel.group import World, join, leave

STEPS = 3
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"one": {}, "one, full": {}},
    2: {"ep 2": {"dp_shard": 2, "ep": 2}, "fsdp 2, full": {"dp_shard": 2}},
}
# More of them (slow).
MORE: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        "replicate 2": {"dp_replicate": 2},
        "cp 2": {"cp": 2},
        "pp 2": {"pp": 2},
        "ep 2, full": {"dp_shard": 2, "ep": 2},
    },
}


def recipe(folder: Path, name: str, degrees: dict[str, Any]) -> SFTConfig:
    is_full = "full" in name
    return SFTConfig(
        model=str(folder / "model"),
        method="full" if is_full else "lora",
        objective="dpo",
        data=ChatDataConfig(
            files=[str(folder / "pairs.jsonl")], valid_share=0.3, seq_length=128, packing="off"
        ),
        train=SFTTrainConfig(
            steps=STEPS, global_batch_size=4, micro_batch_size=2, dtype="float32", threads=1
        ),
        lora=LoRAConfig(rank=4, expert_rank=2, alpha=8.0),
        dpo=DPOConfig(sft_weight=0.1),
        optim=OptimConfig(lr=1e-4 if is_full else 1e-3, schedule="constant", weight_decay=0.0),
        parallel=ParallelConfig(**degrees),
    )


def write(folder: Path) -> None:
    cfg = preset("ling-tiny").replace(num_nextn_predict_layers=0, dtype="float32")
    (folder / "model").mkdir()
    save_model(from_config(cfg, seed=0), cfg, folder / "model")
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    train_tokenizer([" ".join(words)] * 20, 300).save(folder / "model")
    rows = [
        {"prompt": words[i % 7], "chosen": words[-i % 7], "rejected": " ".join(words[: 2 + i % 5])}
        for i in range(19)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(world: World, folder: Path, name: str, degrees: dict[str, Any]) -> None:
    assert loop.run_in(world, recipe(folder, name, degrees), folder / name, quiet) == 0


def quiet(text: str) -> None:
    pass


def main(folder: Path, layouts: dict[int, dict[str, dict[str, Any]]]) -> None:
    world = join(torch.device("cpu"), None)
    for name, degrees in layouts[world.size].items():
        train(world, folder, name, degrees)
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), MORE if sys.argv[2:] == ["all"] else LAYOUTS)
