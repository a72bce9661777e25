"""What every objective is to a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ..batches import Batch
from ..forward import LingForTraining

if TYPE_CHECKING:
    from ..setup import Run


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


# Adds up what each rank counted in rows of its own; ranks that share rows count once.
OverRows = Callable[[Tensor], Tensor]


class Objective(Protocol):
    """Turns a micro-batch into losses."""

    def begin(self, run: Run, stops: Callable[[], bool]) -> None:
        """Before the first step of a process, on all ranks: what needs a pass over the data.

        All ranks ask together now and then whether it `stops`, and return then.
        """

    def batches(
        self, batches: Iterable[Batch], micro_batches: int, over_rows: OverRows
    ) -> Iterable[Batch]:
        """This rank's micro-batches of a step, which has `micro_batches` over all ranks, with what
        has to be known of all of them before the first backward pass."""

    def losses(self, network: LingForTraining, batch: Batch) -> Losses:
        """Of one micro-batch; the step takes the mean over all of them."""
