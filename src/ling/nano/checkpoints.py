"""Checkpoints along the pre-training and their merge, measured alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.load import load_model
from ..checkpoint.open import tokenizer_folder
from ..checkpoint.run_folder import checkpoints, step_of
from ..config.recipe import DataConfig
from ..data.indexed import IndexedDataset
from ..data.tokenizer import Tokenizer
from ..errors import UsageError
from ..eval.turns import measure_turns
from ..llm import LLM
from ..train.forward import LingForTraining
from ..train.heldout import HeldOut, held_out_loss
from .held_out import HeldOutPart

COUNT = 5
MERGED = "merged"
# Of each part; 16 rows of 512 tokens.
ROWS, ROW = 16, 512


def along(run: Path, count: int = COUNT) -> list[Path]:
    """`count` checkpoints at even distances up to the newest, or those nearest to them.

    Raises `UsageError` for a run without checkpoints.
    """
    saved = checkpoints(run)
    if not saved:
        raise UsageError(f"{run}: holds no checkpoints")
    last = step_of(saved[-1])
    wanted = [last * k / count for k in range(1, count + 1)]
    nearest = [min(saved, key=lambda p: abs(step_of(p) - step)) for step in wanted]
    return list(dict.fromkeys(nearest))


def measure_checkpoints(
    run: Path,
    merged: Path,
    parts: Sequence[HeldOutPart],
    records: Sequence[dict[str, Any]],
    log: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row for each checkpoint `along` the run, and one for the merged model."""
    named = [(step_of(folder), folder) for folder in along(run)]
    rows = []
    for step, folder in [*named, (MERGED, merged)]:
        log(f"checkpoint {step}")
        rows.append({"step": step, **measure_checkpoint(folder, parts, records)})
    return rows


def measure_checkpoint(
    folder: Path, parts: Sequence[HeldOutPart], records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Bits per byte, loss and MTP agreement by part, and the shares of held-out dialogues."""
    with LLM(folder, dtype="bfloat16") as llm:
        bits = {part.name: part.bits(llm).per_byte for part in parts}
        shares = measure_turns(llm, records).shares()
    found = dict(held_out_of(folder, parts))
    return {
        "bits_per_byte": bits,
        "loss": {name: score.loss for name, score in found.items()},
        "mtp_agreement": {name: score.mtp_agreement for name, score in found.items()},
        "dialogues": shares,
    }


def held_out_of(model: Path, parts: Sequence[HeldOutPart]) -> Iterator[tuple[str, HeldOut]]:
    """Loss and MTP agreement on the token files of each part that fills a row."""
    network = load_model(model, "float32")
    network.compute_dtype = torch.bfloat16
    found = tokenizer_folder(model)
    eod = Tokenizer.from_folder(found).eod_token_id if found else None
    length = min(ROW, network.config.max_position_embeddings)
    cfg = DataConfig(prefix=["-"], seq_length=length, isolate_documents=True)
    for part in parts:
        dataset = IndexedDataset(part.prefix)
        if dataset.num_tokens > length:
            scored = held_out_loss(LingForTraining(network), dataset, cfg, rows=ROWS, eod=eod)
            yield part.name, scored
