"""From token files to the tensors of one micro-batch.

Legend: B rows · S positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.recipe import DataConfig
from ..data.indexed import IndexedDataset
from ..data.samples import GPTSamples, Mixture
from ..errors import DataError

# Token files up to this size are read once before the first step, to find ids without a row;
# of larger ones every batch is checked.
SCAN_TOKENS = 1 << 28


@dataclass
class Batch:
    """Rows of tokens, their next tokens, and where the loss counts.

    `documents_BS` numbers the documents of each row; it is None when they are not isolated.
    """

    tokens_BS: Tensor
    labels_BS: Tensor
    mask_BS: Tensor
    documents_BS: Tensor | None = None

    @property
    def positions_T(self) -> Tensor:
        """Position of each token in its row, or in its document when isolated."""
        B, S = self.tokens_BS.shape
        index = torch.arange(S).expand(B, S)
        if self.documents_BS is None:
            return index.flatten()
        first = torch.zeros_like(self.documents_BS, dtype=torch.bool)
        first[:, 0] = True
        first[:, 1:] = self.documents_BS[:, 1:] != self.documents_BS[:, :-1]
        start = torch.where(first, index, 0).cummax(dim=1).values
        return (index - start).flatten()

    @property
    def cu_seqlens(self) -> list[int]:
        """Borders of what may attend to each other: rows, or documents when isolated."""
        B, S = self.tokens_BS.shape
        if self.documents_BS is None:
            return list(range(0, B * S + 1, S))
        starts = (self.positions_T == 0).nonzero().flatten().tolist()
        return [*starts, B * S]


def open_samples(
    prefixes: Sequence[str],
    cfg: DataConfig,
    *,
    rows: int,
    seed: int,
    eod: int | None,
    vocab_size: int,
) -> Any:
    """The sample order of one or several prefixes; raises `DataError` for unusable data."""
    datasets = [IndexedDataset(p) for p in prefixes]
    for dataset, prefix in zip(datasets, prefixes, strict=True):
        if dataset.num_tokens <= cfg.seq_length:
            raise DataError(
                f"{dataset.num_tokens} tokens are fewer than one row of "
                f"`data.seq_length` = {cfg.seq_length}",
                path=f"{prefix}.bin",
            )
        if dataset.num_tokens <= SCAN_TOKENS:
            dataset.check_ids(vocab_size)
    weights = cfg.weights or [float(d.num_tokens) for d in datasets]
    parts = [
        GPTSamples(
            d,
            seq_length=cfg.seq_length,
            num_samples=_share(rows, w, weights),
            seed=seed,
            eod=eod,
            eod_mask_loss=cfg.eod_mask_loss,
        )
        for d, w in zip(datasets, weights, strict=True)
    ]
    return parts[0] if len(parts) == 1 else Mixture(parts, weights)


def _share(rows: int, weight: float, weights: Sequence[float]) -> int:
    """Rows that one dataset of a mixture can be asked for, with room for rounding."""
    return rows if len(weights) == 1 else int(rows * weight / sum(weights) * 1.01) + 2


def make_batch(samples: Sequence[Any], isolate_eod: int | None) -> Batch:
    """Stack samples; `isolate_eod` is the id that ends a document when they are isolated."""

    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(getattr(s, name)) for s in samples]))

    tokens, labels = stack("tokens").long(), stack("labels").long()
    batch = Batch(tokens, labels, stack("loss_mask").float())
    if isolate_eod is not None:
        ended = (tokens == isolate_eod).long()
        batch.documents_BS = ended.cumsum(1) - ended
        # Predicting the first token of the next document would look across the border.
        batch.mask_BS = batch.mask_BS * (tokens != isolate_eod)
    return batch


def run_data_folder(out: Path) -> Path:
    """Where a run keeps the corpus it prepared."""
    return out / "data"
