"""Direct preference optimisation: the better of two answers becomes likelier than it was, measured
against the worse one.

Legend: B pairs · S positions · T = B·S tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config.sft import DPOConfig
from ...data.conversations.pair_rows import PAIR, PairRows
from ...data.conversations.store import Part
from ..batches import Batch, make_batch
from ..forward import LingForTraining
from ..heldout import HeldOut, Share
from ..loss import RoutingLoss
from ..reference import Reference, make_reference
from ..rows import HeldOutRows
from .answers import answers
from .base import Losses, OverRows
from .pretrain import Prediction, scored

if TYPE_CHECKING:
    from ..setup import Run

REFERENCE = "reference"
"""In `Batch.extra`, logps_B2 of the reference."""
# What is logged, each a mean over pairs.
_NAMES = (
    "loss",
    "reward_margin",
    "reward_accuracy",
    "chosen_reward",
    "rejected_reward",
    "chosen_logp",
    "rejected_logp",
    "sft_loss",
)


@dataclass
class Preferences:
    """-log σ(β·(Δ - Δ of the reference)), a mean over the pairs of a step.

    Δ is the log-probability of the chosen answer less that of the rejected one, each summed over
    its trained tokens. With `label_smoothing` ε (conservative DPO) a pair counts 1 - ε as it is and
    ε turned round; `sft_weight` adds the loss of the chosen answer, a mean over its tokens.
    `z_coef` is as in `FineTuning`; there is no MTP loss.
    """

    cfg: DPOConfig
    pairs: Mapping[Part, PairRows]
    z_coef: float | None = None
    references: dict[Part, Reference] = field(default_factory=dict)

    def begin(self, run: Run, stops: Callable[[], bool]) -> None:
        """The reference's log-probabilities of all pairs, once for the whole run."""
        for part, pairs in self.pairs.items():
            self.references[part] = make_reference(run, pairs, part, stops)

    def batches(
        self, batches: Iterable[Batch], micro_batches: int, over_rows: OverRows
    ) -> Iterable[Batch]:
        """With the reference of their pairs.

        All micro-batches have as many pairs: the mean over them is that over the pairs of the step.
        """
        for batch in batches:
            yield self._with_reference(batch, "train")

    def _with_reference(self, batch: Batch, part: Part) -> Batch:
        batch.extra[REFERENCE] = self.references[part].of(batch.extra[PAIR].flatten())
        return batch

    def losses(self, network: LingForTraining, batch: Batch) -> Losses:
        """Forward pass and loss; rewards are β times what was gained on the reference."""
        trace = RoutingLoss(network.ling.config.num_experts, train=self.z_coef is not None)
        z_coef, parts = self.z_coef or 0.0, network.context.parts

        def score(predictions: list[Prediction]) -> tuple[Tensor, ...]:
            z = trace.z_loss().to(batch.tokens_BS.device) / parts
            if not predictions:  # a pipeline stage without the head
                return z_coef * z, z, *[torch.zeros_like(z) for _ in _NAMES]
            means = self._values(network, batch, predictions[0]).mean(0)
            # Ranks that share rows have all of a loss, and the gradient of their tokens.
            return means[0] + z_coef * z, z, *(means.detach() / parts)

        total, z, *means = scored(network, batch, score, trace)
        return Losses(total, self._named(means), z, trace.counts)

    def _named(self, means: Iterable[Tensor]) -> dict[str, Tensor]:
        named = dict(zip(_NAMES, means, strict=True))
        if not self.cfg.sft_weight:
            del named["sft_loss"]
        return named

    def _values(self, network: LingForTraining, batch: Batch, p: Prediction) -> Tensor:
        """Of each pair what `_NAMES` says."""
        cfg, (logps_B2, tokens_B2) = self.cfg, answers(network, batch, p)
        rewards_B2 = cfg.beta * (logps_B2 - batch.extra[REFERENCE])
        margin_B = rewards_B2[:, 0] - rewards_B2[:, 1]
        turned = cfg.label_smoothing
        loss_B = -(1 - turned) * F.logsigmoid(margin_B) - turned * F.logsigmoid(-margin_B)
        sft_B = -logps_B2[:, 0] / tokens_B2[:, 0]
        if cfg.sft_weight:
            loss_B = loss_B + cfg.sft_weight * sft_B
        right_B = (margin_B > 0).float()
        return torch.stack([loss_B, margin_B, right_B, *rewards_B2.T, *logps_B2.T, sft_B], dim=1)

    @torch.no_grad()
    def measure(self, network: LingForTraining, held_out: HeldOutRows, share: Share) -> HeldOut:
        """Means over the held-out pairs, each scored alone."""
        device = next(network.parameters()).device
        sums = torch.zeros(len(_NAMES) + 1, dtype=torch.float64, device=device)
        count = held_out.count
        for number, is_ours in share.rows(count):
            batch = make_batch([held_out.samples[number]], isolate_documents=True)
            tokens = batch.mask_BS.sum()
            found = self._measured(network, self._with_reference(batch, "valid").to(device), tokens)
            sums += found if is_ours else 0
        *sums_N, tokens = share.add(sums).cpu()
        named = {k: float(v) / max(count, 1) for k, v in self._named(sums_N).items()}
        return HeldOut(named.pop("loss"), round(float(tokens)), None, None, named)

    def _measured(self, network: LingForTraining, batch: Batch, tokens: Tensor) -> Tensor:
        """This rank's part of the values of one pair, and of its tokens."""

        def score(predictions: list[Prediction]) -> tuple[Tensor, ...]:
            if not predictions:
                return (torch.zeros(len(_NAMES) + 1, device=batch.tokens_BS.device),)
            (values,) = self._values(network, batch, predictions[0])
            return (torch.cat([values, tokens.to(values)[None]]) / network.context.parts,)

        return scored(network, batch, score)[0].double()
