"""From rows of tokens to the tensors of one micro-batch.

Legend: B rows · S positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.samples import Sample, Samples, lengthened
from ..errors import DataError
from .device import move


@dataclass
class Batch:
    """Rows of tokens, their next tokens, and where the loss counts.

    `documents_BS` numbers the documents of each row; it is None when they are not isolated.
    `extra` holds further arrays of each row, `Sample.extra` stacked. `counts` is what the main and
    each MTP loss are divided by where an objective takes that of the whole step; None: the
    micro-batch's own. `first_row` is the number of the first row in the run, `trained` the
    number of trained tokens of the whole step where it was counted. The last `padding_B` tokens of
    each row stand for nothing (empty: none does); `shares_BS` is what each token counts in a mean
    over those that a router sees, 0 of padding; None: all alike.
    """

    tokens_BS: Tensor
    labels_BS: Tensor
    mask_BS: Tensor
    documents_BS: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    counts: Tensor | None = None
    first_row: int = 0
    trained: int | None = None
    padding_B: tuple[int, ...] = ()
    shares_BS: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """This batch on `device`."""
        documents = None if self.documents_BS is None else move(self.documents_BS, device)
        tokens, labels = move(self.tokens_BS, device), move(self.labels_BS, device)
        extra = {name: move(x, device) for name, x in self.extra.items()}
        counts = None if self.counts is None else move(self.counts, device)
        mask, first = move(self.mask_BS, device), self.first_row
        moved = Batch(tokens, labels, mask, documents, extra, counts, first)
        moved.shares_BS = None if self.shares_BS is None else move(self.shares_BS, device)
        if documents is not None:  # borders are counted here, since the CPU would wait for a GPU
            moved.positions_T = move(self.positions_T, device)
            moved.cu_seqlens = self.cu_seqlens
        return moved

    @property
    def real_BS(self) -> Tensor:
        """1 of a token, 0 of padding."""
        (B, S), device = self.tokens_BS.shape, self.tokens_BS.device
        ends_B = S - torch.tensor(self.padding_B or [0] * B, device=device)
        return (torch.arange(S, device=device) < ends_B[:, None]).float()

    @cached_property
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

    @cached_property
    def cu_seqlens(self) -> list[int]:
        """Borders of what may attend to each other: rows, or documents when isolated."""
        B, S = self.tokens_BS.shape
        if self.documents_BS is None:
            return list(range(0, B * S + 1, S))
        starts = (self.positions_T == 0).nonzero().flatten().tolist()
        return [*starts, B * S]


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
        batch.first_row = first
        top = max(int(batch.tokens_BS.max()), int(batch.labels_BS.max()))
        if top >= self.vocab_size:
            raise DataError(
                f"token id {top} is outside the vocabulary of {self.vocab_size}", path=self.files
            )
        return batch


def make_batch(samples: Sequence[Sample], *, isolate_documents: bool) -> Batch:
    """Stack samples, the shorter ones with padding; isolated documents neither see nor predict each
    other.
    """
    length = max(len(s.tokens) for s in samples)
    samples = [lengthened(s, length) for s in samples]

    def stack(rows: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows))

    batch = Batch(
        stack([s.tokens for s in samples]).long(),
        stack([s.labels for s in samples]).long(),
        stack([s.loss_mask for s in samples]).float(),
        extra={name: stack([s.extra[name] for s in samples]) for name in samples[0].extra},
        padding_B=tuple(s.padding for s in samples),
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
