"""Log-probabilities of the answers of pairs.

Legend: B pairs · S positions · T = B·S tokens · n trained tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batches import Batch
from ..forward import LingForTraining
from ..loss import token_losses, trained_rows
from .pretrain import Prediction, scored


class Answers(NamedTuple):
    """Of the chosen (column 0) and the rejected answers: the log-probability summed over trained
    tokens, float32, and how many these are.
    """

    logps_B2: Tensor
    tokens_B2: Tensor


def answers(network: LingForTraining, batch: Batch, p: Prediction) -> Answers:
    """Those of `p`, inside the network's `forward`.

    Of ranks that share rows all have the sums over whole rows, each with the gradient of its own
    tokens.
    """
    documents_BS, context = batch.documents_BS, network.context
    assert documents_BS is not None
    number = 2 * torch.arange(len(documents_BS), device=documents_BS.device)
    answer_BS = number[:, None] + documents_BS
    own_T = p.mask_T.nonzero().flatten()
    hidden_TD, targets_T, _ = trained_rows(p.hidden_TD, p.targets_T, p.mask_T)
    logps_n = -token_losses(hidden_TD, network.head, targets_T)[: len(own_T)]
    count = 2 * len(documents_BS)
    whole_n = answer_BS[batch.mask_BS > 0]
    tokens_B2 = torch.bincount(whole_n, minlength=count).view(-1, 2)
    own = _sums(logps_n, context.cut(answer_BS)[own_T], count)
    if context.parts > 1:
        here_T = torch.zeros_like(p.mask_T, dtype=torch.float32)
        here_T[own_T] = logps_n.detach()
        whole_T = context.whole(here_T, rows=len(documents_BS))
        own = own - own.detach() + _sums(whole_T[batch.mask_BS.flatten() > 0], whole_n, count)
    return Answers(own.view(-1, 2).float(), tokens_B2)


def _sums(values_n: Tensor, answer_n: Tensor, count: int) -> Tensor:
    """The sum of each answer's values, which stand together; in float64 and one by one, so that an
    answer has the same whatever stands beside it."""
    sizes = torch.bincount(answer_n, minlength=count).tolist()
    return torch.stack([part.double().sum() for part in values_n.split(sizes)])


@torch.no_grad()
def log_probabilities(network: LingForTraining, batch: Batch) -> Tensor:
    """logps_B2 of a micro-batch of pairs; zeros on a rank that has not the head."""

    def score(predictions: list[Prediction]) -> tuple[Tensor, ...]:
        if not predictions:
            return (torch.zeros(len(batch.tokens_BS), 2, device=batch.tokens_BS.device),)
        return (answers(network, batch, predictions[0]).logps_B2,)

    (logps_B2,) = scored(network, batch, score)
    return logps_B2
