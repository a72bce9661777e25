"""Pre-training: next-token loss, MTP loss, router z-loss.

Legend: B rows · S positions · T = B·S tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...model.moe import RoutingTrace
from ..batches import Batch
from ..forward import LingForTraining
from ..loss import RoutingLoss, cross_entropy, roll_left
from .base import Losses


@dataclass
class Prediction:
    """Hidden states, the tokens they are to predict, and where the loss counts.

    `count` positions count in the whole micro-batch, whose tokens other ranks may have.
    """

    hidden_TD: Tensor
    targets_T: Tensor
    mask_T: Tensor
    count: Tensor


@dataclass(frozen=True)
class Pretraining:
    """Main loss + `mtp_weight` · mean MTP loss + `z_coef` · z-loss."""

    mtp_weight: float
    z_coef: float

    def losses(self, network: LingForTraining, batch: Batch) -> Losses:
        """Forward pass and losses, logged as `loss` and, with MTP layers, `mtp_loss`; with
        several of these also as `mtp_loss_1` and so on.

        Of ranks that share rows each has its tokens' part; all parts add up to the means.
        """
        trace = RoutingLoss(network.ling.config.num_experts, train=True)
        names = _names(network.num_mtp_layers)

        def score(predictions: list[Prediction]) -> tuple[Tensor, ...]:
            z = trace.z_loss().to(batch.tokens_BS.device) / network.context.parts
            if not predictions:  # a pipeline stage without the head
                return self.z_coef * z, z, *[torch.zeros_like(z) for _ in names]
            main, *mtp = [
                cross_entropy(p.hidden_TD, network.head, p.targets_T, p.mask_T, p.count)[0]
                for p in predictions
            ]
            total = main + self.z_coef * z
            if not mtp:
                return total, z, main
            mean = torch.stack(mtp).mean()
            each = mtp if len(mtp) > 1 else []
            return total + self.mtp_weight * mean, z, main, mean, *each

        total, z, *named = scored(network, batch, score, trace)
        return Losses(total, dict(zip(names, named, strict=True)), z, trace.counts)


def _names(num_mtp_layers: int) -> list[str]:
    """What the log calls the losses; MTP layers one by one only where there are several."""
    each = [f"mtp_loss_{j}" for j in range(1, num_mtp_layers + 1)]
    return ["loss", *["mtp_loss"] * bool(each), *(each if len(each) > 1 else [])]


def scored(
    network: LingForTraining,
    batch: Batch,
    score: Callable[[list[Prediction]], tuple[Tensor, ...]],
    trace: RoutingTrace | None = None,
) -> tuple[Tensor, ...]:
    """What `score` makes, inside the network's `forward`, of the predictions of the main layers,
    then of each MTP layer.

    MTP layer j scores position t against token t + j + 2, so the loss mask moves along and rows
    never see each other; isolated documents also drop targets beyond their border
    (docs/concepts/training.md#mtp-loss).
    """
    tokens, labels, mask = [batch.tokens_BS], [batch.labels_BS], [batch.mask_BS]
    for _ in range(network.num_mtp_layers):
        for shifted in (tokens, labels, mask):
            shifted.append(roll_left(shifted[-1]))
    context, positions_BS = network.context, batch.positions_T.view_as(batch.tokens_BS)
    seen = [m * _same_document(batch, j) if j else m for j, m in enumerate(mask)]

    def score_hidden(hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
        parts = zip(hidden, labels, seen, strict=False)  # a stage without the head has none
        return score(
            [Prediction(h_TD, context.cut(y), context.cut(m), m.sum()) for h_TD, y, m in parts]
        )

    # Cut only now: targets are shifted in whole rows.
    own = [context.cut(x) for x in tokens]
    return network(own, context.cut(positions_BS), context.attend(batch), trace, score_hidden)


def _same_document(batch: Batch, distance: int) -> Tensor | float:
    """1 where position t + distance is in the document of t, for isolated documents."""
    if batch.documents_BS is None:
        return 1.0
    later = batch.documents_BS
    for _ in range(distance):
        later = roll_left(later + 1) - 1  # fills with -1: no document
    return (later == batch.documents_BS).float()
