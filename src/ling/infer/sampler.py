"""Choosing a token. The noise is a function of (seed, position, id) and of nothing else.

Sampling is Gumbel-max: the token with the largest score plus Gumbel noise has exactly the softmax
distribution. With noise fixed per position, a draft made with the same noise either equals what
the model itself samples there or is dropped, so speculative output equals plain output token for
token at any temperature; no batch, chunk or preemption can change it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import RequestError
from .request import Request, SamplingParams

EVERY_ID_BANNED = "no token may be chosen: every id is banned"
_MASK = (1 << 64) - 1


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, vectorised (Steele et al., OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def gumbel_noise(seed: int, position: int, ids: np.ndarray) -> np.ndarray:
    """Standard Gumbel noise (float64) for token `ids` at `position`."""
    golden = 0x9E3779B97F4A7C15
    with np.errstate(over="ignore"):
        key = _mix(np.asarray([(seed & _MASK) ^ ((position + 1) * golden & _MASK)], np.uint64))
        bits = _mix(_mix(key + ids.astype(np.uint64) * np.uint64(golden)) + np.uint64(golden))
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    return -np.log(-np.log(uniform))


def penalised(
    logits_V: Tensor, params: SamplingParams, tokens: Sequence[int], num_prompt: int
) -> Tensor:
    """Repetition penalty over prompt and output, then presence and frequency over the output."""
    scores = logits_V
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(tokens)))
        values = scores[seen]
        r = params.repetition_penalty
        scores = scores.clone()
        scores[seen] = torch.where(values > 0, values / r, values * r)
    if params.presence_penalty or params.frequency_penalty:
        ids, counts = torch.tensor(tokens[num_prompt:], dtype=torch.long).unique(return_counts=True)
        scores = scores.clone()
        scores[ids] -= params.presence_penalty + params.frequency_penalty * counts
    return scores


def choose(
    logits_V: Tensor, params: SamplingParams, seed: int, tokens: Sequence[int], num_prompt: int
) -> int:
    """The token after `tokens`; equal scores go to the lowest id.

    Order: penalties, temperature, top-k, min-p, top-p. Ids of -inf are never chosen. Raises
    `RequestError` when there is no other.
    """
    scores = penalised(logits_V, params, tokens, num_prompt)
    top = float(scores.max())
    if not math.isfinite(top):
        raise RequestError(
            EVERY_ID_BANNED
            if top == -math.inf
            else "the penalties leave scores that are not finite",
        )
    if params.greedy:
        return int(scores.argmax())
    s = scores.double().numpy() / params.temperature
    order = np.argsort(-s, kind="stable")
    order = order[np.isfinite(s[order])]
    if params.top_k > 0:
        order = order[: params.top_k]
    p = np.exp(s[order] - s[order[0]])
    p /= p.sum()
    if params.min_p > 0:
        keep = p >= params.min_p * p[0]
        order, p = order[keep], p[keep] / p[keep].sum()
    if params.top_p < 1:
        # The smallest set that reaches top_p: what came before an entry must be below it.
        order = order[np.cumsum(p) - p < params.top_p]
    return int(order[np.argmax(s[order] + gumbel_noise(seed, len(tokens), order))])


def check_finite(logits_V: Tensor, position: int) -> None:
    """Raise `RequestError` for scores of the token at `position` that are not finite."""
    low, high = logits_V.aminmax()  # either is NaN where any score is
    if not math.isfinite(low) or not math.isfinite(high):
        raise RequestError(
            f"the model's scores for token {position} are not finite: its weights are damaged, or "
            "its numbers grow beyond their type (`ling verify` checks a folder)",
            status=500,
            code="scores_not_finite",
        )


def next_token(
    request: Request,
    logits_V: Tensor,
    best: int,
    tokens: Sequence[int],
    banned: Tensor | None,
    stop_token_ids: frozenset[int],
) -> int:
    """The request's token after `tokens`, which may end in drafts.

    `best` is the lowest id of the largest score outside of the `banned` ids. Before `min_tokens`
    no token that would stop the request is chosen. Raises `RequestError` when no id is left.
    """
    params, scores = request.params, logits_V
    early = len(tokens) - request.num_prompt_tokens < params.min_tokens
    if params.plain_greedy and not early:
        if best < 0:
            raise RequestError(EVERY_ID_BANNED)
        return best
    if banned is not None or early:
        scores = scores.clone()
        if banned is not None:
            scores[banned[banned < len(scores)]] = float("-inf")
        if early:
            stops = [*stop_token_ids, *(params.stop_token_ids or ())]
            scores[[i for i in stops if i < len(scores)]] = float("-inf")
    return choose(scores, params, request.seed, tokens, request.num_prompt_tokens)
