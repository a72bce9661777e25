"""`ling eval --tasks ppl`: loss on held-out text, by the trainer's own measure."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint.load import load_model
from ..checkpoint.open import tokenizer_folder
from ..config.recipe import DataConfig
from ..data.corpus import documents
from ..data.indexed import IndexedDataset, IndexedWriter, token_dtype
from ..data.samples import Samples
from ..data.tokenizer import Tokenizer
from ..errors import DataError
from ..hub import resolve_model
from ..train.forward import LingForTraining
from ..train.heldout import held_out_loss, rows_in_order
from .text_bits import bits_per_byte

MAX_ROW = 1024


def perplexity(
    model: str | Path,
    data: Sequence[str],
    *,
    seq_length: int | None = None,
    rows: int | None = None,
    dtype: str = "float32",
    compute_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Loss (nats per token), perplexity, bits per byte and MTP agreement of any checkpoint.

    `data` is one Megatron prefix, or jsonl and text files, read in order and cut into rows.
    `bits_per_byte` is the same loss over the `bytes` of the scored tokens, None without the
    tokenizer of these tokens; it compares tokenizers where their rows have about as much text.
    """
    folder = resolve_model(model)
    network = load_model(folder, dtype)
    network.compute_dtype = compute_dtype
    found = tokenizer_folder(folder)
    tok = Tokenizer.from_folder(found) if found else None
    length = seq_length or min(network.config.max_position_embeddings, MAX_ROW)
    eod = tok.eod_token_id if tok else None
    with tempfile.TemporaryDirectory() as scratch:
        dataset = _open(data, tok, Path(scratch))
        if dataset.num_tokens <= length:
            raise DataError(
                f"{dataset.num_tokens} tokens, fewer than a row of {length}", path=data[0]
            )
        cfg = DataConfig(prefix=["-"], seq_length=length)
        count = rows or 1 << 40
        result = held_out_loss(LingForTraining(network), dataset, cfg, rows=count, eod=eod)
        nbytes = scored_bytes(rows_in_order(dataset, cfg, count, eod), tok) if tok else None
    return {
        "loss": result.loss,
        "perplexity": math.exp(min(result.loss, 700)),
        "tokens": result.tokens,
        "bits_per_byte": bits_per_byte(result.loss * result.tokens, nbytes) if nbytes else None,
        "bytes": nbytes,
        "mtp_loss": result.mtp_loss,
        "mtp_agreement": result.mtp_agreement,
    }


def scored_bytes(samples: Samples, tok: Tokenizer) -> int | None:
    """Bytes of text of all tokens that are scored; control tokens are none. None where one of them
    is not of the tokenizer."""
    control = set(tok.control_tokens.values())
    lengths = np.array(
        [0 if i in control else len(tok.token_bytes(i)) for i in range(tok.vocab_size)]
    )
    total = 0
    for row in (samples[k] for k in range(len(samples))):
        labels = row.labels[row.loss_mask > 0]
        if (labels >= len(lengths)).any():
            return None
        total += int(lengths[labels].sum())
    return total


def _open(data: Sequence[str], tok: Tokenizer | None, scratch: Path) -> IndexedDataset:
    if len(data) == 1 and Path(f"{data[0]}.idx").is_file():
        return IndexedDataset(data[0])
    if tok is None or tok.eod_token_id is None:
        raise DataError(
            "text needs a model with a tokenizer; give a .bin/.idx prefix", path=data[0]
        )
    with IndexedWriter(scratch / "text", token_dtype(tok.vocab_size)) as writer:
        for document in documents(list(data)):
            writer.add_document([*tok.encode(document.text), tok.eod_token_id])
    return IndexedDataset(scratch / "text")
