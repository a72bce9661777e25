"""Loss on held-out tokens: the one number that the trainer and `ling eval ppl` share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..config.recipe import DataConfig
from ..data.indexed import IndexedDataset
from ..data.samples import RowsInOrder
from .batches import make_batch
from .forward import LingForTraining
from .loss import cross_entropy
from .objectives.pretrain import predict


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
        dataset, seq_length=cfg.seq_length, eod=eod, eod_mask_loss=cfg.eod_mask_loss
    )
    device = next(network.parameters()).device
    loss = mtp_loss = 0.0
    count = mtp_count = agree = compared = 0
    for r in range(min(rows, len(source))):
        isolate = cfg.isolate_documents and eod is not None
        batch = make_batch([source[r]], isolate_documents=isolate).to(device)
        main, *mtp = predict(network, batch)
        mean, n = cross_entropy(main.hidden_TD, network.head, main.targets_T, main.mask_T)
        loss, count = loss + float(mean) * int(n), count + int(n)
        if not mtp:
            continue
        first = mtp[0]
        mean, n = cross_entropy(first.hidden_TD, network.head, first.targets_T, first.mask_T)
        mtp_loss, mtp_count = mtp_loss + float(mean) * int(n), mtp_count + int(n)
        choice = network.ling.logits(main.hidden_TD).argmax(-1)[1:-1]
        agree += int((network.ling.logits(mtp[0].hidden_TD).argmax(-1)[:-2] == choice).sum())
        compared += len(choice)
    return HeldOut(
        loss / max(count, 1),
        count,
        mtp_loss / mtp_count if mtp_count else None,
        agree / compared if compared else None,
    )
