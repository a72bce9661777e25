"""Fine-tuning: next-token loss where the assistant speaks, every trained token weighing the same.

Legend: B rows · S positions · T = B·S tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...model.layers import Linear
from ..batches import Batch
from ..forward import LingForTraining
from ..loss import cross_entropy, trained_rows
from .base import Losses, OverRows
from .pretrain import Prediction, targets, token_losses

if TYPE_CHECKING:
    from ..setup import Run


@dataclass(frozen=True)
class FineTuning:
    """Main loss + `mtp_weight` · mean MTP loss, each a mean over the trained tokens of the whole
    step, however they are spread over micro-batches and ranks; + `z_coef` · z-loss,
    which is left out (None) where no router trains.

    Only rows of trained tokens meet the head. `mtp_layers` is the network's `num_mtp_layers`.
    """

    mtp_weight: float
    z_coef: float | None
    mtp_layers: int = 0

    def begin(self, run: Run, stops: Callable[[], bool]) -> None:
        """Nothing is to be known before."""

    def batches(
        self, batches: Iterable[Batch], micro_batches: int, over_rows: OverRows
    ) -> list[Batch]:
        """All of them, read, with their `counts`.

        The step takes the mean over micro-batches, so their sums are divided by the tokens of one
        on average: together, the mean over the tokens of the step.
        """
        read = list(batches)
        each = [torch.stack([m.sum() for m in targets(b, self.mtp_layers)[2]]) for b in read]
        total = over_rows(torch.stack(each).sum(0).double())
        for batch in read:
            batch.counts = (total.clamp(min=1) / micro_batches).float()
            batch.trained = round(float(total[0]))
        return read

    def losses(self, network: LingForTraining, batch: Batch) -> Losses:
        """Forward pass and losses, logged as in pre-training."""
        return token_losses(network, batch, self.mtp_weight, self.z_coef, over_trained)


def over_trained(p: Prediction, head: Linear) -> Tensor:
    """The loss of a prediction, whose other rows never meet the head."""
    hidden_TD, targets_T, mask_T = trained_rows(p.hidden_TD, p.targets_T, p.mask_T)
    return cross_entropy(hidden_TD, head, targets_T, mask_T, p.count)[0]
