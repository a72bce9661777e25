"""Choosing tokens from scores on a device.

Plain greedy rows need one number each, so they are chosen where the scores are. Everything else
goes to the CPU and is chosen there, by the same code and noise as the CPU engine's: equal scores
give equal tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...ops import native
from ..choice import CHOSEN, NONE_LEFT, NOT_FINITE, Chosen, RowChoice, failure
from ..native_choice import native_choose
from ..sampler import choose


def choose_on_device(
    scores: Tensor, choices: Sequence[RowChoice], banned: np.ndarray
) -> list[Chosen]:
    """The token of each row of scores (float32 [rows, vocab])."""
    greedy = [i for i, choice in enumerate(choices) if _is_plain(choice)]
    if len(greedy) == len(choices):
        return _greedy(scores, choices, banned)
    chosen: dict[int, Chosen] = {}
    for rows, way in ((greedy, _greedy), (_others(greedy, len(choices)), _on_cpu)):
        if rows:
            part = scores.index_select(0, torch.tensor(rows).to(scores.device))
            some = way(part, [choices[i] for i in rows], banned)
            chosen |= dict(zip(rows, some, strict=True))
    return [chosen[i] for i in range(len(choices))]


def _others(rows: list[int], count: int) -> list[int]:
    return sorted(set(range(count)).difference(rows))


def _is_plain(c: RowChoice) -> bool:
    """Whether the largest score decides, and at most its own log-probability is asked for."""
    free = not (len(c.bias) or len(c.excluded) or c.filters.penalise) and c.mask is None
    return free and c.given < 0 and not c.filters.inverse_temperature and not c.num_best


def _greedy(scores: Tensor, choices: Sequence[RowChoice], banned: np.ndarray) -> list[Chosen]:
    allowed = scores
    if (inside := banned[banned < scores.shape[1]]).size:
        ids = torch.from_numpy(inside).long().to(scores.device)
        allowed = scores.index_fill(1, ids, float("-inf"))
    best, ids = allowed.max(1).values, allowed.argmax(1)  # of equal ones the first
    found = [ids, scores.isfinite().all(1), best]
    if any(c.num_best is not None for c in choices):
        wide = scores.double()
        found += [best - wide.logsumexp(1), (scores > best[:, None]).sum(1) + 1]
    table = (
        torch.stack([x.double() for x in found], 1).cpu().tolist()
    )  # the only wait for the device
    return [_chosen(row, choice) for row, choice in zip(table, choices, strict=True)]


def _chosen(row: list[float], choice: RowChoice) -> Chosen:
    token, finite, best, *scored = row
    status = CHOSEN if finite else NOT_FINITE
    if finite and best == float("-inf"):
        status = NONE_LEFT
    if status != CHOSEN:
        return Chosen(-1, failure(status, choice.position))
    out = Chosen(int(token))
    if choice.num_best is not None:
        out.logprob, out.rank = float(np.float32(scored[0])), int(scored[1])
    return out


def _on_cpu(scores: Tensor, choices: Sequence[RowChoice], banned: np.ndarray) -> list[Chosen]:
    scores = scores.cpu()
    if (lib := native.library()) is not None:
        return native_choose(lib, scores.contiguous(), choices, banned)
    rows = zip(scores.numpy(), choices, strict=True)
    return [choose(row, choice, banned) for row, choice in rows]
