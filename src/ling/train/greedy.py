"""Greedy answers of a network while it trains: short, with the weights as they are.

All ranks of a sharded network compute the same answer together. Legend: T tokens · H query heads ·
G kv heads · K head dim · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from ..ops.causal import causal_attention
from .forward import LingForTraining
from .parallel.shard import release


class GrowingCache:
    """Attention of one sequence over its keys and values so far: first all of a prompt, then one
    token at a time."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        if layer in self._kept:
            k_TGK, v_TGK = (
                torch.cat(x) for x in zip(self._kept[layer], (k_TGK, v_TGK), strict=True)
            )
        self._kept[layer] = k_TGK, v_TGK
        return causal_attention(q_THK, k_TGK, v_TGK, [0, len(q_THK)], [0, len(k_TGK)])


@torch.no_grad()
def answer(
    network: LingForTraining,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    stop_ids: Collection[int],
    valid_V: Tensor | None = None,
    agree: Callable[[int], int] = int,
) -> list[int]:
    """The likeliest tokens behind `prompt`, one after the other, a stop id included.

    Ids outside of `valid_V` (bools) stand for no token and are never chosen. `agree` gives all
    ranks the choice of one: theirs may differ by rounding, and then they would wait for each other.
    The network must compute its layers on each rank (no pipeline, no context parallelism), and is
    left in training.
    """
    device = next(network.parameters()).device
    attend, new = GrowingCache(), list(prompt)
    found: list[int] = []
    network.eval()
    try:
        while len(found) < max_tokens and (not found or found[-1] not in stop_ids):
            last = len(prompt) + len(found)
            positions_T = torch.arange(last - len(new), last, device=device)
            tokens_T = torch.tensor(new, device=device)
            found.append(agree(_next(network, tokens_T, positions_T, attend, valid_V)))
            new = found[-1:]
    finally:
        network.train()
        release(network)
    return found


def _next(
    network: LingForTraining,
    tokens_T: Tensor,
    positions_T: Tensor,
    attend: GrowingCache,
    valid_V: Tensor | None,
) -> int:
    def best(hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
        scores_V = network.head(hidden[0][-1]).float()
        if valid_V is not None:
            scores_V = scores_V.masked_fill(~valid_V, -torch.inf)
        return (scores_V.argmax(),)

    # MTP layers, where they are computed at all, get any tokens: what they say is not asked for.
    tokens = [tokens_T] * (1 + network.num_mtp_layers)
    (chosen,) = network(tokens, positions_T, attend, None, best)
    return int(chosen)
