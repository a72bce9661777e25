"""One micro-batch through the model: main loss, MTP loss, routing.

Legend: B rows · S positions · T = B·S tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...model.attention import DenseAttend
from ...model.ling import Ling
from ..batches import Batch
from ..loss import RoutingLoss, cross_entropy, roll_left


@dataclass
class Losses:
    """Scalars of one micro-batch; `mtp` is the mean over MTP layers, None without them."""

    main: Tensor
    mtp: Tensor | None
    z: Tensor
    counts: dict[int, Tensor]

    def total(self, mtp_weight: float, z_coef: float) -> Tensor:
        """What is differentiated: main + weight · MTP + coefficient · z."""
        total = self.main + z_coef * self.z
        return total if self.mtp is None else total + mtp_weight * self.mtp


def compute_losses(model: Ling, batch: Batch, *, train: bool = True) -> Losses:
    """Forward pass and losses.

    MTP layer j scores position t against token t + j + 2, so the loss mask moves along and rows
    never see each other; isolated documents also drop targets beyond their border
    (spec: training §2.4).
    """
    cfg = model.config
    trace = RoutingLoss(cfg.num_experts, train=train)
    attend, positions = DenseAttend(batch.cu_seqlens), batch.positions_T
    head = model.lm_head.weight
    h_TD = model(batch.tokens_BS.flatten(), positions, attend, trace)
    main, _ = cross_entropy(h_TD, head, batch.labels_BS.flatten(), batch.mask_BS.flatten())
    mtp: list[Tensor] = []
    # The labels are the tokens shifted once: input of the first MTP layer as they stand.
    tokens, labels, mask = (
        roll_left(batch.tokens_BS),
        roll_left(batch.labels_BS),
        roll_left(batch.mask_BS),
    )
    for j in range(cfg.num_nextn_predict_layers):
        h_TD = model.mtp(j, tokens.flatten(), h_TD, positions, attend, trace)
        seen = mask * _same_document(batch, j + 1)
        loss, _ = cross_entropy(h_TD, head, labels.flatten(), seen.flatten())
        mtp.append(loss)
        tokens, labels, mask = roll_left(tokens), roll_left(labels), roll_left(mask)
    mean = torch.stack(mtp).mean() if mtp else None
    return Losses(main, mean, trace.z_loss(), trace.counts)


def _same_document(batch: Batch, distance: int) -> Tensor | float:
    """1 where position t + distance lies in the document of t, for isolated documents."""
    if batch.documents_BS is None:
        return 1.0
    later = batch.documents_BS
    for _ in range(distance):
        later = roll_left(later + 1) - 1  # fills with -1: no document
    return (later == batch.documents_BS).float()
