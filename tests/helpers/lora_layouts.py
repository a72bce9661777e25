"""Trains adapters of one small model in several layouts: `torchrun lora_layouts.py FOLDER [all]`.

FOLDER/model has the weights; FOLDER/<layout>.json is the result: loss and norm of each step, the
adapter's sums, what the first step saw. Rows of random tokens, of which every third is trained.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ling.checkpoint.dcp.local import local_part
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.open import config_at
from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig, SFTTrainConfig
from ling.data.samples import Sample
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.batches import BatchReader
from ling.train.lora.adapter import adapter_of
from ling.train.lora.check import FirstStep, lines
from ling.train.network import build_network
from ling.train.objectives.sft import FineTuning
from ling.train.optim import build_optimizer
from ling.train.parallel.apply import parallelise
from ling.train.parallel.group import World, join, leave
from ling.train.parallel.mesh import make_meshes
from ling.train.parallel.reduce import OverRanks
from ling.train.state import TrainState
from ling.train.step import ONE_RANK, train_step

STEPS, LENGTH = 4, 16
# Name: degrees; by number of ranks. The end of a name says what else is not as in "one".
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "one": {},
        "one, bf16": {},
        "one, bf16, tied": {},
        "one, dropout": {},
        "recompute full, dropout": {},
    },
    2: {
        "ep 2, recompute moe": {"dp_shard": 2, "ep": 2, "recompute": "moe"},
        "fsdp 2, bf16": {"dp_shard": 2},
        "cp 2, recompute full, dropout": {"cp": 2, "recompute": "full"},
    },
}
# More of them (slow).
MORE: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        "replicate 2": {"dp_replicate": 2},
        "fsdp 2, recompute full": {"dp_shard": 2, "recompute": "full"},
        "fsdp 2, dropout": {"dp_shard": 2},
        "cp 2 with ep 2": {"cp": 2, "ep": 2},
        "pp 2": {"pp": 2},
        "pp 2, bf16, tied": {"pp": 2},
        "pp 2 × 2 stages, recompute full, dropout": {
            "pp": 2,
            "pp_stages_per_rank": 2,
            "recompute": "full",
        },
    },
    4: {
        "ep 2 × fsdp 2, recompute moe": {"dp_shard": 4, "ep": 2, "recompute": "moe"},
        "pp 2 × ep 2": {"pp": 2, "dp_shard": 2, "ep": 2},
        "ep 2 × fsdp 2, bf16": {"dp_shard": 4, "ep": 2},
    },
}


def recipe(folder: Path, name: str, degrees: dict[str, Any]) -> SFTConfig:
    return SFTConfig(
        model=str(folder / ("tied" if "tied" in name else "model")),
        method="lora",
        data=ChatDataConfig(files=["rows of this file"], seq_length=LENGTH),
        train=SFTTrainConfig(
            steps=STEPS,
            global_batch_size=8,
            micro_batch_size=2,
            dtype="bfloat16" if "bf16" in name else "float32",
            threads=1,
        ),
        lora=LoRAConfig(rank=4, expert_rank=2, alpha=8.0, dropout=0.1 * ("dropout" in name)),
        optim=OptimConfig(lr=1e-3, schedule="constant", weight_decay=0.0),
        parallel=ParallelConfig(**degrees),
    )


def write_model(folder: Path) -> None:
    # Four main layers, so that each of four stages has one.
    cfg = preset("ling-tiny").replace(num_hidden_layers=4, num_nextn_predict_layers=0)
    for name in ("model", "tied"):
        (folder / name).mkdir()
        made = cfg.replace(tie_word_embeddings=name == "tied")
        save_model(from_config(made, seed=0), made, folder / name)


def row(number: int) -> Sample:
    ids = np.random.RandomState(number).randint(0, 384, LENGTH + 1)
    mask = (np.arange(LENGTH) % 3 == number % 3).astype(np.float32)
    return Sample(ids[:-1], ids[1:], mask, np.array([5, 11]))


class Rows:
    """`row` as `Samples`."""

    def __len__(self) -> int:
        return 8 * STEPS

    def __getitem__(self, i: int) -> Sample:
        return row(i)


def train(world: World, folder: Path, name: str, degrees: dict[str, Any]) -> None:
    made, device = recipe(folder, name, degrees), torch.device("cpu")
    meshes = None if world.size == 1 else make_meshes(made.parallel, "cpu", world)
    cfg = config_at(Path(made.model))
    network = build_network(made, cfg, device, partial(parallelise, made, meshes))
    state = TrainState(network, build_optimizer(network.ling, made.optim), device, world)
    objective = FineTuning(0.0, None, network.num_mtp_layers)
    reduce = ONE_RANK if meshes is None else OverRanks(meshes)
    reader = BatchReader(Rows(), True, cfg.vocab_size, "rows")
    steps, first = [], FirstStep()
    for _ in range(STEPS):
        rows = state.first_rows(made.train, made.parallel)
        batches = (reader.read(at, made.train.micro_batch_size) for at in rows)
        look = None if steps else first.look
        done = train_step(state, objective, batches, made.train, made.optim, reduce, look)
        steps.append([done.losses["loss"], done.grad_norm])
    sums = {}
    for matrix, (a, b, _) in adapter_of(network.ling, made.lora).matrices.items():
        sums[matrix] = [float(a.double().square().sum()), float(b.double().square().sum())]
    states = state.optimizer.state
    moments = {n for n, p in network.ling.named_parameters() if p in states}
    trained = {n for n, p in network.ling.named_parameters() if "lora_" in n}
    assert moments == trained
    kept = sum(local_part(p).numel() for p in network.parameters() if p.requires_grad)
    found = world.gather((first, sums, kept))
    if world.leads:
        merged = {k: v for _, part, _ in found for k, v in part.items()}
        result = {
            "steps": steps,
            "sums": merged,
            "kept": [n for *_, n in found],
            "lines": lines([f for f, *_ in found]),
        }
        (folder / f"{name}.json").write_text(json.dumps(result))


def main(folder: Path, layouts: dict[int, dict[str, dict[str, Any]]]) -> None:
    world = join(torch.device("cpu"), None)
    for name, degrees in layouts[world.size].items():
        train(world, folder, name, degrees)
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), MORE if sys.argv[2:] == ["all"] else LAYOUTS)
