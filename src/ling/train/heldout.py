"""Loss on held-out tokens: the one number that the trainer and `ling eval ppl` share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..config.recipe import DataConfig
from ..data.indexed import IndexedDataset
from ..model.attention import DenseAttend
from ..model.ling import Ling
from .batches import make_batch
from .loss import cross_entropy, roll_left


@dataclass
class HeldOut:
    """Mean losses in nats per token, and how often MTP agrees with the main head.

    `mtp_agreement` is the share of positions where MTP's first choice for token t + 2 is the main
    head's at t + 1.
    """

    loss: float
    tokens: int
    mtp_loss: float | None
    mtp_agreement: float | None

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)


class RowsInOrder:
    """Consecutive rows of a token file, unshuffled; each row overlaps the last by one token."""

    def __init__(self, dataset: IndexedDataset, cfg: DataConfig, eod: int | None) -> None:
        self.tokens = torch.cat(
            [torch.from_numpy(dataset.get(i).astype("int64")) for i in range(len(dataset))]
        )
        self.cfg, self.eod = cfg, eod

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.cfg.seq_length

    def __getitem__(self, row: int) -> Any:
        S = self.cfg.seq_length
        ids = self.tokens[row * S : row * S + S + 1]
        masked = self.eod is not None and self.cfg.eod_mask_loss
        mask = ids[:-1].ne(cast(int, self.eod)).float() if masked else torch.ones(S)
        return _Row(ids[:-1].numpy(), ids[1:].numpy(), mask.numpy())


@dataclass
class _Row:
    tokens: Any
    labels: Any
    loss_mask: Any


@torch.no_grad()
def held_out_loss(
    model: Ling, dataset: IndexedDataset, cfg: DataConfig, *, rows: int, eod: int | None
) -> HeldOut:
    """Score the first `rows` rows of `dataset`, every token weighing the same."""
    source = RowsInOrder(dataset, cfg, eod)
    loss = mtp_loss = 0.0
    count = mtp_count = agree = compared = 0
    for r in range(min(rows, len(source))):
        batch = make_batch([source[r]], eod if cfg.isolate_documents else None)
        attend, positions = DenseAttend(batch.cu_seqlens), batch.positions_T
        h_TD = model(batch.tokens_BS.flatten(), positions, attend)
        head, mask = model.lm_head.weight, batch.mask_BS
        mean, n = cross_entropy(h_TD, head, batch.labels_BS.flatten(), mask.flatten())
        loss, count = loss + float(mean) * int(n), count + int(n)
        if not model.config.num_nextn_predict_layers:
            continue
        next_ids = roll_left(batch.tokens_BS).flatten()
        m_TD = model.mtp(0, next_ids, h_TD, positions, attend)
        mean, n = cross_entropy(
            m_TD, head, roll_left(batch.labels_BS).flatten(), roll_left(mask).flatten()
        )
        mtp_loss, mtp_count = mtp_loss + float(mean) * int(n), mtp_count + int(n)
        choice = model.logits(h_TD).argmax(-1)[1:-1]
        agree += int((model.logits(m_TD).argmax(-1)[:-2] == choice).sum())
        compared += len(choice)
    return HeldOut(
        loss / max(count, 1),
        count,
        mtp_loss / mtp_count if mtp_count else None,
        agree / compared if compared else None,
    )
