"""Pre-training: next-token loss, MTP loss, router z-loss.

Legend: B rows · S positions · T = B·S tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...model.layers import Linear
from ...model.moe import RoutingTrace
from ..batches import Batch
from ..forward import LingForTraining
from ..loss import RoutingLoss, cross_entropy, roll_left
from .base import Losses, OverRows

if TYPE_CHECKING:
    from ..setup import Run


@dataclass
class Prediction:
    """Hidden states, the tokens they are to predict, and where the loss counts.

    The sum of the losses is divided by `count`: the positions that count in the micro-batch, whose
    tokens other ranks may have, or `Batch.counts`.
    """

    hidden_TD: Tensor
    targets_T: Tensor
    mask_T: Tensor
    count: Tensor


@dataclass(frozen=True)
class Pretraining:
    """Main loss + `mtp_weight` · mean MTP loss + `z_coef` · z-loss, each a mean over the tokens of
    a micro-batch, as in Megatron-LM."""

    mtp_weight: float
    z_coef: float

    def begin(self, run: Run, stops: Callable[[], bool]) -> None:
        """Nothing is to be known before."""

    def batches(
        self, batches: Iterable[Batch], micro_batches: int, over_rows: OverRows
    ) -> Iterable[Batch]:
        """As they are, read one by one."""
        return batches

    def losses(self, network: LingForTraining, batch: Batch) -> Losses:
        """Forward pass and losses, logged as `loss` and, with MTP layers, `mtp_loss`; with
        several of these also as `mtp_loss_1` and so on.

        Of ranks that share rows each has its tokens' part; all parts add up to the means.
        """
        return token_losses(network, batch, self.mtp_weight, self.z_coef, _over_all)


def _over_all(p: Prediction, head: Linear) -> Tensor:
    return cross_entropy(p.hidden_TD, head, p.targets_T, p.mask_T, p.count)[0]


def token_losses(
    network: LingForTraining,
    batch: Batch,
    mtp_weight: float,
    z_coef: float | None,
    loss_of: Callable[[Prediction, Linear], Tensor],
) -> Losses:
    """Losses of next tokens; `loss_of` a prediction and the head is one of them. No `z_coef`
    leaves the z-loss out."""
    trace = RoutingLoss(network.ling.config.num_experts, train=z_coef is not None)
    z_coef = z_coef or 0.0
    names = _names(network.num_mtp_layers)

    def score(predictions: list[Prediction]) -> tuple[Tensor, ...]:
        z = trace.z_loss().to(batch.tokens_BS.device) / network.context.parts
        if not predictions:  # a pipeline stage without the head
            return z_coef * z, z, *[torch.zeros_like(z) for _ in names]
        main, *mtp = [loss_of(p, network.head) for p in predictions]
        total = main + z_coef * z
        if not mtp:
            return total, z, main
        mean = torch.stack(mtp).mean()
        each = mtp if len(mtp) > 1 else []
        return total + mtp_weight * mean, z, main, mean, *each

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
    tokens, labels, mask = targets(batch, network.num_mtp_layers)
    context, positions_BS = network.context, batch.positions_T.view_as(batch.tokens_BS)

    def score_hidden(hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
        counts = batch.counts
        if counts is None:
            counts = torch.stack([m.sum().clamp(min=1) for m in mask])
        parts = zip(hidden, labels, mask, counts, strict=False)  # none in a stage without the head
        return score([Prediction(h, context.cut(y), context.cut(m), n) for h, y, m, n in parts])

    # Cut only now: targets are shifted in whole rows.
    own = [context.cut(x) for x in tokens]
    return network(own, context.cut(positions_BS), context.attend(batch), trace, score_hidden)


def targets(batch: Batch, mtp_layers: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Tokens, labels and masks [B, S] of the main prediction and of that of each MTP layer."""
    tokens, labels, mask = [batch.tokens_BS], [batch.labels_BS], [batch.mask_BS]
    for _ in range(mtp_layers):
        for shifted in (tokens, labels, mask):
            shifted.append(roll_left(shifted[-1]))
    seen = [m * _same_document(batch, j) if j else m for j, m in enumerate(mask)]
    return tokens, labels, seen


def _same_document(batch: Batch, distance: int) -> Tensor | float:
    """1 where position t + distance is in the document of t, for isolated documents."""
    if batch.documents_BS is None:
        return 1.0
    later = batch.documents_BS
    for _ in range(distance):
        later = roll_left(later + 1) - 1  # fills with -1: no document
    return (later == batch.documents_BS).float()
