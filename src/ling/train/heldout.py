"""Loss on held-out tokens: the one number that the trainer and `ling eval ppl` share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..config.recipe import DataConfig
from ..data.indexed import IndexedDataset
from ..data.samples import RowsInOrder, Samples, split_part
from .batches import make_batch
from .forward import LingForTraining
from .loss import cross_entropy, trained_rows
from .objectives.pretrain import Prediction, scored
from .rows import HeldOutRows


@dataclass
class HeldOut:
    """Mean losses in nats per token, and how often MTP agrees with the main head.

    `mtp_agreement` is the share of positions where MTP's first choice for token t + 2 is the main
    head's at t + 1. `named` is what an objective measures besides; of pairs the loss is that of the
    objective.
    """

    loss: float
    tokens: int
    mtp_loss: float | None
    mtp_agreement: float | None
    named: dict[str, float] = field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)


@dataclass(frozen=True)
class Share:
    """Of `count` shares of the rows this process scores number `index`; `add` adds up over all."""

    index: int
    count: int
    add: Callable[[Tensor], Tensor]

    def rows(self, count: int) -> Iterator[tuple[int, bool]]:
        """Numbers of rows below `count` to score, and whether they are this process's.

        Where no row is left it scores the first: the others need its part of the weights.
        """
        for first in range(0, count, self.count):
            row = first + self.index
            yield (row, True) if row < count else (0, False)


ALL_ROWS = Share(0, 1, lambda sums: sums)


def held_out_loss(
    network: LingForTraining,
    dataset: IndexedDataset,
    cfg: DataConfig,
    *,
    rows: int,
    eod: int | None,
    share: Share = ALL_ROWS,
) -> HeldOut:
    """Score the first `rows` rows of `dataset`, every token weighing the same.

    Ranks share the rows out and all return the same.
    """
    isolate = cfg.isolate_documents and eod is not None
    found = rows_in_order(dataset, cfg, rows, eod)
    return loss_of_rows(network, found, isolate_documents=isolate, share=share)


Measure = Callable[[LingForTraining, HeldOutRows, Share], HeldOut]
"""Of held-out rows; ranks share them out and all return the same."""


def token_loss(network: LingForTraining, held_out: HeldOutRows, share: Share) -> HeldOut:
    """`loss_of_rows` of these."""
    return loss_of_rows(
        network,
        held_out.samples,
        isolate_documents=held_out.isolate_documents,
        trained_only=held_out.trained_only,
        rows=held_out.rows,
        share=share,
    )


def rows_in_order(
    dataset: IndexedDataset | str, cfg: DataConfig, rows: int, eod: int | None
) -> RowsInOrder:
    """The first `rows` rows of `dataset`, or of its held-out part."""
    dataset = IndexedDataset(dataset) if isinstance(dataset, str) else dataset
    return RowsInOrder(
        dataset,
        seq_length=cfg.seq_length,
        eod=eod,
        eod_mask_loss=cfg.eod_mask_loss,
        documents=split_part(len(dataset), cfg.split, 1),
        rows=rows,
    )


@torch.no_grad()
def loss_of_rows(
    network: LingForTraining,
    samples: Samples,
    *,
    isolate_documents: bool,
    trained_only: bool = False,
    rows: int | None = None,
    share: Share = ALL_ROWS,
) -> HeldOut:
    """Score the first `rows` of `samples`, or all, every trained token weighing the same.

    With `trained_only` other rows of a hidden state do not meet the head, and nothing is said of
    how often MTP agrees. Ranks share the rows out and all return the same.
    """
    device = next(network.parameters()).device
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    count = len(samples) if rows is None else min(rows, len(samples))
    for row, is_ours in share.rows(count):
        batch = make_batch([samples[row]], isolate_documents=isolate_documents).to(device)
        score = partial(_row, network, trained_only)
        found = torch.stack(scored(network, batch, score))
        if is_ours:
            sums += found
    loss, tokens, mtp_loss, mtp_tokens, agreed, compared = share.add(sums).cpu().tolist()
    return HeldOut(
        loss / max(tokens, 1),
        round(tokens),
        mtp_loss / mtp_tokens if mtp_tokens else None,
        agreed / compared if compared else None,
    )


def _row(
    network: LingForTraining, trained_only: bool, predictions: list[Prediction]
) -> tuple[Tensor, ...]:
    """Six sums over this rank's tokens of a row: loss and tokens of the main head and of MTP layer
    0; positions where that agrees with the main head, and all that are compared."""
    found: list[Tensor] = []
    for p in predictions[:2]:
        rows = p.hidden_TD, p.targets_T, p.mask_T
        hidden_TD, targets_T, mask_T = trained_rows(*rows) if trained_only else rows
        mean, count = cross_entropy(hidden_TD, network.head, targets_T, mask_T)
        found += [mean.double() * count, count.double()]
    if len(predictions) < 2 or trained_only:
        device = next(network.parameters()).device
        return (*found, *torch.zeros(6 - len(found), dtype=torch.float64, device=device))
    best = (network.head(p.hidden_TD).float().argmax(-1) for p in predictions[:2])
    main, mtp = (network.context.whole(ids_T, rows=1) for ids_T in best)
    agreed = mtp[:-2] == main[1:-1]
    return (*found, agreed.sum().double(), agreed.new_full((), len(agreed), dtype=torch.float64))
