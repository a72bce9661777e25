"""From token files to the tensors of one micro-batch.

Legend: B rows · S positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.recipe import DataConfig
from ..data.indexed import IndexedDataset
from ..data.samples import GPTSamples, Mixture, Sample, Samples
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

    def to(self, device: torch.device) -> Batch:
        """This batch on `device`."""
        documents = None if self.documents_BS is None else self.documents_BS.to(device)
        tokens, labels = self.tokens_BS.to(device), self.labels_BS.to(device)
        return Batch(tokens, labels, self.mask_BS.to(device), documents)

    @property
    def positions_T(self) -> Tensor:
        """Position of each token in its row, or in its document when isolated."""
        B, S = self.tokens_BS.shape
        index = torch.arange(S, device=self.tokens_BS.device).expand(B, S)
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


@dataclass(frozen=True)
class OneAfterAnother:
    """The rows of several orders, the next where the one before ends."""

    parts: Sequence[Samples]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, i: int) -> Sample:
        for part in self.parts:
            if i < len(part):
                return part[i]
            i -= len(part)
        raise IndexError(i)


def open_orders(
    prefixes: Sequence[str],
    cfg: DataConfig,
    *,
    orders: Sequence[int],
    needed: int,
    seed: int,
    eod: int | None,
    vocab_size: int,
) -> tuple[Samples, list[int]]:
    """Samples in orders laid out for this many rows each, and one more if `needed` rows are more.

    Megatron's order depends on the number of rows in all. A run whose steps were changed later
    keeps its first order and continues in another one behind it, so that rows read stay those read.
    """

    def order(number: int, count: int) -> Samples:
        return open_samples(
            prefixes, cfg, rows=count, seed=seed + number, eod=eod, vocab_size=vocab_size
        )

    rows = list(orders)
    parts = [order(k, count) for k, count in enumerate(rows)]
    missing = needed - sum(map(len, parts))
    if missing > 0:
        parts.append(order(len(rows), missing))
        rows.append(missing)
    return parts[0] if len(parts) == 1 else OneAfterAnother(parts), rows


def open_samples(
    prefixes: Sequence[str],
    cfg: DataConfig,
    *,
    rows: int,
    seed: int,
    eod: int | None,
    vocab_size: int,
) -> Samples:
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


@dataclass(frozen=True)
class BatchReader:
    """Micro-batches by the number of their first row.

    `files` names the data in errors. Raises `DataError` for ids without a row in the embedding.
    """

    samples: Samples
    isolate_documents: bool
    vocab_size: int
    files: str

    def read(self, first: int, rows: int) -> Batch:
        """The micro-batch of `rows` rows from row `first`."""
        batch = make_batch(
            [self.samples[i] for i in range(first, first + rows)],
            isolate_documents=self.isolate_documents,
        )
        top = max(int(batch.tokens_BS.max()), int(batch.labels_BS.max()))
        if top >= self.vocab_size:
            raise DataError(
                f"token id {top} is outside the vocabulary of {self.vocab_size}", path=self.files
            )
        return batch


def make_batch(samples: Sequence[Sample], *, isolate_documents: bool) -> Batch:
    """Stack samples; isolated documents neither see nor predict each other."""

    def stack(rows: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows))

    batch = Batch(
        stack([s.tokens for s in samples]).long(),
        stack([s.labels for s in samples]).long(),
        stack([s.loss_mask for s in samples]).float(),
    )
    if isolate_documents:
        batch.documents_BS = stack([s.documents for s in samples])
        for row, sample in enumerate(samples):
            # Predicting the first token of the next document would look across the border.
            batch.mask_BS[row, sample.borders - 1] = 0.0
    return batch


def run_data_folder(out: Path) -> Path:
    """Where a run keeps the corpus it prepared."""
    return out / "data"
