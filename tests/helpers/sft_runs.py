"""Fine-tuning runs of seconds: a tiny model, conversations of a few words, and a recipe for both.

`torchrun sft_runs.py FOLDER` trains every layout of `LAYOUTS` on 2 ranks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from runs import quiet

from ling.checkpoint.hf.save import save_model
from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.recipe import CheckpointConfig
from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig, SFTTrainConfig
from ling.data.tokenizer import train_tokenizer
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop
from ling.train.parallel.group import join, leave

TINY = preset("ling-tiny").replace(num_nextn_predict_layers=1, dtype="float32")
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
LENGTH = 128

# Degrees and method of the runs that are compared with one process of the same name's end.
LAYOUTS: dict[str, dict[str, int]] = {
    "replicate 2, full": {"dp_replicate": 2},
    "fsdp 2, full": {"dp_shard": 2},
    "ep 2, full": {"dp_shard": 2, "ep": 2},
    "cp 2, full": {"cp": 2},
    "pp 2, full": {"pp": 2},
    "pp 2, full, off, mtp": {"pp": 2},
    "cp 2, full, off, mtp": {"cp": 2},
    "fsdp 2, full, off, mtp, router": {"dp_shard": 2},
    "cp 2, full, off, mtp, router": {"cp": 2},
}
STEPS = 4


def write_model(folder: Path) -> None:
    """The tiny model with a tokenizer of the words."""
    folder.mkdir(exist_ok=True)
    save_model(from_config(TINY, seed=0), TINY, folder)
    train_tokenizer([" ".join(WORDS)] * 20, 300).save(folder)


def record(i: int) -> dict[str, Any]:
    """A question and an answer of one to six words."""
    said = " ".join(WORDS[(i + k) % 10] for k in range(1 + i % 6))
    asked = {"role": "user", "content": f"say {WORDS[i % 10]}"}
    return {"messages": [asked, {"role": "assistant", "content": said}]}


def write_records(path: Path, count: int = 24) -> None:
    """A jsonl file of them."""
    path.write_text("".join(json.dumps(record(i)) + "\n" for i in range(count)))


def make_recipe(
    folder: Path,
    *,
    steps: int = 6,
    interval: int = 2,
    epochs: float = 1.0,
    lr: float = 1e-3,
    method: Any = "full",
    data: dict[str, Any] | None = None,
    parallel: dict[str, int] | None = None,
    **train: Any,
) -> SFTConfig:
    """Of the model `base` and the records `chat.jsonl` in `folder`."""
    settings = {"global_batch_size": 2, "micro_batch_size": 1, "threads": 1, **train}
    return SFTConfig(
        model=str(folder / "base"),
        method=method,
        data=ChatDataConfig(
            files=[str(folder / "chat.jsonl")], **{"seq_length": LENGTH, **(data or {})}
        ),
        train=SFTTrainConfig(steps=steps, epochs=epochs, dtype="float32", **settings),
        optim=OptimConfig(lr=lr, schedule="constant"),
        lora=LoRAConfig(rank=4, expert_rank=2),
        checkpoint=CheckpointConfig(interval_steps=interval, keep_last=2),
        parallel=ParallelConfig(**(parallel or {})),
    )


def layout_recipe(folder: Path, name: str, degrees: dict[str, int]) -> SFTConfig:
    """Of a name of `LAYOUTS`, or of the one process that it is compared with, whose micro-batches
    are of other rows."""
    router = {"train_router": True, "z_loss_coef": 0.1, "bias_update_rate": 1e-3}
    return make_recipe(
        folder,
        steps=STEPS,
        interval=100,
        lr=1e-4,
        method="lora" if "lora" in name else "full",
        data={"valid_share": 0.2, "packing": "off" if "off" in name else "best_fit"},
        parallel=degrees,
        global_batch_size=4,
        micro_batch_size=1 if degrees else 2,
        mtp_loss_weight=0.3 if "mtp" in name else 0.0,
        **(router if "router" in name else {}),
    )


def alone(name: str) -> str:
    """The run of one process that a layout is compared with."""
    return "one, " + name.partition(", ")[2]


def main(folder: Path) -> None:
    world = join(torch.device("cpu"), None)
    for name, degrees in LAYOUTS.items():
        made = layout_recipe(folder, name, degrees)
        assert loop.run_in(world, made, folder / name, quiet) == 0
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
