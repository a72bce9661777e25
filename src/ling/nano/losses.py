"""The loss of a checkpoint on what is held out of each part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..checkpoint.load import load_model
from ..checkpoint.open import tokenizer_folder
from ..config.recipe import DataConfig
from ..data.indexed import IndexedDataset
from ..data.tokenizer import Tokenizer
from ..train.forward import LingForTraining
from ..train.heldout import held_out_loss

_ROWS = 32


def losses_of(
    model: Path, held_out: Mapping[str, Path], seq_length: int, rows: int = _ROWS
) -> dict[str, float]:
    """Nats per token by part, documents apart from each other; of parts that fill a row."""
    network = load_model(model, "float32")
    network.compute_dtype = torch.bfloat16
    found = tokenizer_folder(model)
    eod = None if found is None else Tokenizer.from_folder(found).eod_token_id
    cfg = DataConfig(prefix=["-"], seq_length=seq_length, isolate_documents=True)
    losses = {}
    for name, prefix in held_out.items():
        dataset = IndexedDataset(prefix)
        if dataset.num_tokens > seq_length:
            scored = held_out_loss(LingForTraining(network), dataset, cfg, rows=rows, eod=eod)
            losses[name] = scored.loss
    return losses
