"""Log-probabilities: of a prompt's tokens, and the most likely ones beside a token."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .runner import Runner
from .sampler import check_finite
from .scheduler import ScheduledRequest

SCORE_ROWS = 64


class TokenLogprob(NamedTuple):
    """A token, its log-probability, and its rank (1 is most likely)."""

    token_id: int
    logprob: float
    rank: int


def top_logprobs(logprobs_V: Tensor, token_id: int, k: int) -> list[TokenLogprob]:
    """The token itself first, then the `k` most likely ones that it is not (-1: all).

    Equal ones rank in the order of their ids; the token's own rank counts only what is likelier.
    """
    own = float(logprobs_V[token_id])
    ranks = {token_id: int((logprobs_V > own).sum()) + 1}
    order = logprobs_V.sort(descending=True, stable=True).indices
    for rank, i in enumerate(order[: len(logprobs_V) if k < 0 else k].tolist(), 1):
        ranks.setdefault(i, rank)
    return [TokenLogprob(i, float(logprobs_V[i]), rank) for i, rank in ranks.items()]


def score_prompt(runner: Runner, scheduled: ScheduledRequest, hidden: Tensor) -> None:
    """Add log-probabilities of a request's prompt tokens, if asked for: each row of the step
    scores the token after it. Raises `RequestError` for scores that are not finite."""
    request = scheduled.request
    if request.params.prompt_logprobs is None:
        return
    have = len(request.prompt_logprobs) + 1  # the first token has none
    last = min(scheduled.first + len(scheduled.ids), request.num_prompt_tokens - 1)
    offset = scheduled.start - scheduled.first
    for a in range(max(scheduled.first, have - 1), last, SCORE_ROWS):
        rows = hidden[a + offset : min(a + SCORE_ROWS, last) + offset]
        scores = runner.logits(rows)[0]
        check_finite(scores, a + 1)
        request.prompt_logprobs += list(scores.log_softmax(-1))
