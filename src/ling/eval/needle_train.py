"""A model of a million parameters that learns to find a needle, in minutes on one core.

Rows grow from stage to stage, and only the answer is learned: at the last stage's length at once
it would take far longer to notice that copying is what is wanted. Each stage is a run of `ling sft`
over all weights, on rows that are token ids; it begins from the one before.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.hf.save import save_model
from ..checkpoint.load import load_model
from ..config.model import ModelConfig
from ..config.recipe import CheckpointConfig
from ..config.sft import ChatDataConfig, SFTConfig, SFTOptimConfig, SFTTrainConfig
from ..data.tokenizer import train_tokenizer
from ..errors import UsageError
from ..files.atomic import atomic_folder, make_folder, read_json, write_atomic
from ..model.ling import from_config
from ..train.loop import run
from ..train.progress import tell
from .needle import NeedleOptions, needle
from .needle_rows import training_row

Log = Callable[[str], None]
MODEL = "model"


@dataclass(frozen=True)
class Stage:
    """Rows of one length."""

    length: int
    steps: int
    rows: int
    """Rows of a step."""
    times: int = 2
    """How often key and answer stand in a row: from the second on they are learned; 2 is what is
    measured."""


LR, SEED = 3e-3, 1


@dataclass(frozen=True)
class Course:
    """Stages of a training, and what its model is measured by."""

    stages: tuple[Stage, ...]
    options: NeedleOptions


# Copying is noticed several times sooner where each row tells of it several times.
_BEGIN = (Stage(48, 340, 32, 6), Stage(48, 60, 32))
# 240 rows of each length under each scaling, up to 8 times the length of training.
FULL = Course(
    (*_BEGIN, Stage(128, 120, 24), Stage(256, 160, 20)),
    NeedleOptions(lengths=(256, 512, 1024, 2048), rows=48, yarn=(1.0, 2.0, 4.0, 8.0)),
)
QUICK = Course(
    (*_BEGIN, Stage(128, 120, 24)),
    NeedleOptions(lengths=(128, 256, 512, 1024), rows=40, yarn=(1.0, 4.0)),
)
SHAPE = {
    "vocab_size": 384,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    # An MTP loss keeps the main layers from learning to copy.
    "num_nextn_predict_layers": 0,
    "rope_theta": 10000.0,
    # All channels of a head: the family's half, 16 of 32 here, learns to copy far later.
    "partial_rotary_factor": 1.0,
    "routed_scaling_factor": 2.5,
    "initializer_range": 0.05,
    "pad_token_id": 256,
    "eos_token_id": 256,
    "bos_token_id": 256,
    "dtype": "float32",
}


def shape(trained: int) -> ModelConfig:
    """The model's configuration, for a length of training."""
    return ModelConfig(**SHAPE, max_position_embeddings=trained)  # type: ignore[arg-type]


def train_and_measure(
    out: Path, course: Course = FULL, seed: int = 0, log: Log = tell
) -> tuple[int, dict[str, Any]]:
    """The exit code of the training, and where that is 0 the results of its model.

    The seed is of weights and rows. Raises `UsageError` where OUT has a model of another course.
    """
    code = train_needle(out, course.stages, seed=SEED + seed, log=log)
    if code:
        return code, {}
    options = dataclasses.replace(course.options, seed=course.options.seed + seed)
    return 0, needle(str(out / MODEL), out, options, log)


def train_needle(out: Path, stages: tuple[Stage, ...], seed: int = SEED, log: Log = tell) -> int:
    """Train, and write `<out>/model`; returns the exit code.

    An interrupted run continues where it was; a finished one is left as it is. Raises `UsageError`
    where OUT has a model of other stages or of another seed: it would be taken for this one.
    """
    make_folder(out)
    _claim_folder(out / "course.json", stages, seed)
    cfg = shape(stages[-1].length)
    model, tokenizer = out / "start", out / "tokenizer"
    if not model.exists():
        with atomic_folder(model) as folder:
            save_model(from_config(cfg, seed=seed), cfg, folder)
    if not tokenizer.exists():  # of bytes: rows have ids that are some
        with atomic_folder(tokenizer) as folder:
            train_tokenizer([], 263).save(folder)
    for number, stage in enumerate(stages, 1):
        log(f"[{number}/{len(stages)}] {stage.steps} steps of {stage.rows} rows of {stage.length}")
        folder = make_folder(out / f"stage-{number}")
        rows = _rows(folder, stage, f"{seed} {number}")
        recipe = _recipe(stage, model, rows, tokenizer, seed, is_last=number == len(stages))
        model = folder / "run"
        code = run(recipe, model, log)
        if code:
            return code
    if not (out / MODEL).exists():
        with atomic_folder(out / MODEL) as folder:  # as the C++ core runs it
            save_model(load_model(model), cfg.replace(dtype="bfloat16"), folder)
    return 0


def _claim_folder(file: Path, stages: tuple[Stage, ...], seed: int) -> None:
    course = {"seed": seed, "stages": [dataclasses.asdict(stage) for stage in stages]}
    if not file.exists():
        write_atomic(file, json.dumps(course) + "\n")
    elif read_json(file) != course:
        raise UsageError(
            f"{file.parent}: has a model of another course (`--quick` or not) or seed; use another "
            "folder"
        )


def _rows(folder: Path, stage: Stage, seed: str) -> Path:
    """The rows of a stage as a file: as many as its steps read."""
    path = folder / "rows.jsonl"
    if not path.exists():
        write_atomic(path, _records(stage, seed))
    return path


def _records(stage: Stage, seed: str) -> Iterator[str]:
    draw = random.Random(f"needle training {seed}")
    for _ in range(stage.steps * stage.rows):
        ids, labels = training_row(stage.length, draw, stage.times)
        yield json.dumps({"input_ids": ids, "labels": labels}) + "\n"


def _recipe(
    stage: Stage, model: Path, rows: Path, tokenizer: Path, seed: int, *, is_last: bool
) -> SFTConfig:
    return SFTConfig(
        model=str(model),
        data=ChatDataConfig(
            files=[str(rows)],
            format="tokens",
            tokenizer=str(tokenizer),
            seq_length=stage.length,
            packing="off",
        ),
        train=SFTTrainConfig(
            steps=stage.steps,
            global_batch_size=stage.rows,
            micro_batch_size=stage.rows,
            # bfloat16 is slow on CPUs without its instructions, and no faster for such matrices.
            dtype="float32",
            train_router=True,
            bias_update_rate=1e-2,
            seed=seed,
            show_samples=0,
        ),
        optim=SFTOptimConfig(
            lr=LR, schedule="cosine" if is_last else "constant", warmup_steps=min(20, stage.steps)
        ),
        checkpoint=CheckpointConfig(interval_steps=100, keep_last=1),
    )
