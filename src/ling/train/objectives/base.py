"""What every objective is to a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..batches import Batch
from ..forward import LingForTraining


@dataclass
class Losses:
    """Of one micro-batch: `total` is differentiated, the others are logged.

    `named` are means under the names that the log gives them; `counts` the tokens of each expert
    by layer.
    """

    total: Tensor
    named: dict[str, Tensor]
    z_loss: Tensor
    counts: dict[int, Tensor]


class Objective(Protocol):
    """Turns a micro-batch into losses."""

    def losses(self, network: LingForTraining, batch: Batch) -> Losses: ...
