"""Pre-training: next-token loss, MTP loss, router z-loss.

Legend: B rows · S positions · T = B·S tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...model.attention import DenseAttend
from ...model.moe import RoutingTrace
from ..batches import Batch
from ..forward import LingForTraining
from ..loss import RoutingLoss, cross_entropy, roll_left
from .base import Losses


@dataclass
class Prediction:
    """Hidden states, the tokens they are to predict, and where the loss counts."""

    hidden_TD: Tensor
    targets_T: Tensor
    mask_T: Tensor


@dataclass(frozen=True)
class Pretraining:
    """Main loss + `mtp_weight` · mean MTP loss + `z_coef` · z-loss."""

    mtp_weight: float
    z_coef: float

    def losses(self, network: LingForTraining, batch: Batch) -> Losses:
        """Forward pass and losses, logged as `loss` and, with MTP layers, `mtp_loss`."""
        trace = RoutingLoss(network.ling.config.num_experts, train=True)
        predictions = predict(network, batch, trace)
        main, *mtp = [
            cross_entropy(p.hidden_TD, network.head, p.targets_T, p.mask_T)[0] for p in predictions
        ]
        z = trace.z_loss()
        named, total = {"loss": main}, main + self.z_coef * z
        if mtp:
            named["mtp_loss"] = torch.stack(mtp).mean()
            total = total + self.mtp_weight * named["mtp_loss"]
        return Losses(total, named, z, trace.counts)


def predict(
    network: LingForTraining, batch: Batch, trace: RoutingTrace | None = None
) -> list[Prediction]:
    """Predictions of the main layers, then of each MTP layer.

    MTP layer j scores position t against token t + j + 2, so the loss mask moves along and rows
    never see each other; isolated documents also drop targets beyond their border
    (docs/concepts/training.md#mtp-loss).
    """
    tokens, labels, mask = [batch.tokens_BS], [batch.labels_BS], [batch.mask_BS]
    for _ in range(network.num_mtp_layers):
        for shifted in (tokens, labels, mask):
            shifted.append(roll_left(shifted[-1]))
    attend = DenseAttend(batch.cu_seqlens)
    hidden = network([x.flatten() for x in tokens], batch.positions_T, attend, trace)
    seen = [m * _same_document(batch, j) if j else m for j, m in enumerate(mask)]
    return [
        Prediction(h_TD, y.flatten(), m.flatten())
        for h_TD, y, m in zip(hidden, labels, seen, strict=True)
    ]


def _same_document(batch: Batch, distance: int) -> Tensor | float:
    """1 where position t + distance is in the document of t, for isolated documents."""
    if batch.documents_BS is None:
        return 1.0
    later = batch.documents_BS
    for _ in range(distance):
        later = roll_left(later + 1) - 1  # fills with -1: no document
    return (later == batch.documents_BS).float()
