"""Loss on held-out tokens: the one number that the trainer and `ling eval ppl` share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..config.recipe import DataConfig
from ..data.indexed import IndexedDataset
from ..data.samples import RowsInOrder
from .batches import make_batch
from .forward import LingForTraining
from .loss import cross_entropy
from .objectives.pretrain import Prediction, scored


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


@torch.no_grad()
def held_out_loss(
    network: LingForTraining,
    dataset: IndexedDataset,
    cfg: DataConfig,
    *,
    rows: int,
    eod: int | None,
) -> HeldOut:
    """Score the first `rows` rows of `dataset`, every token weighing the same."""
    source = RowsInOrder(
        dataset, seq_length=cfg.seq_length, eod=eod, eod_mask_loss=cfg.eod_mask_loss, rows=rows
    )
    device = next(network.parameters()).device
    loss = mtp_loss = 0.0
    count = mtp_count = agree = compared = 0
    for r in range(len(source)):
        isolate = cfg.isolate_documents and eod is not None
        batch = make_batch([source[r]], isolate_documents=isolate).to(device)
        mean, n, *mtp = scored(network, batch, partial(_row, network))
        loss, count = loss + float(mean) * int(n), count + int(n)
        if not mtp:
            continue
        mean, n, agreed = mtp
        mtp_loss, mtp_count = mtp_loss + float(mean) * int(n), mtp_count + int(n)
        agree, compared = agree + int(agreed.sum()), compared + len(agreed)
    return HeldOut(
        loss / max(count, 1),
        count,
        mtp_loss / mtp_count if mtp_count else None,
        agree / compared if compared else None,
    )


def _row(network: LingForTraining, predictions: list[Prediction]) -> tuple[Tensor, ...]:
    """Mean loss and count of a row; of MTP layer 0 the same, and where it agrees."""
    found: list[Tensor] = []
    for p in predictions[:2]:
        found += cross_entropy(p.hidden_TD, network.head, p.targets_T, p.mask_T)
    if len(predictions) > 1:
        main, mtp = (network.ling.logits(p.hidden_TD).argmax(-1) for p in predictions[:2])
        found.append(mtp[:-2] == main[1:-1])
    return tuple(found)
