"""Log-probabilities of a prompt's tokens, for `echo` and for scoring texts."""

from __future__ import annotations

from torch import Tensor

from .choice import RowChoice
from .runner import Runner
from .scheduler import ScheduledRequest

SCORE_ROWS = 64
"""Rows that get scores at a time: the scores of 64 rows of 157,184 ids are 40 MB."""


def score_prompt(runner: Runner, scheduled: ScheduledRequest, hidden: Tensor) -> None:
    """Add log-probabilities of a request's prompt tokens, if asked for: each row of the step
    scores the token after it. Raises `RequestError` for scores that are not finite."""
    request = scheduled.request
    k = request.params.prompt_logprobs
    if k is None:
        return
    have = len(request.prompt_logprobs) + request.params.first_scored
    last = min(scheduled.first + len(scheduled.ids), request.num_prompt_tokens - 1)
    offset = scheduled.start - scheduled.first
    for a in range(max(scheduled.first, have - 1), last, SCORE_ROWS):
        if request.finish_reason is not None:  # aborted meanwhile
            return
        b = min(a + SCORE_ROWS, last)
        scores = runner.logits(hidden[a + offset : b + offset])
        num_best = scores.shape[1] if k == -1 else k
        choices = [
            RowChoice(position=i, given=request.tokens[i], num_best=num_best)
            for i in range(a + 1, b + 1)
        ]
        for chosen in runner.choose(scores, choices):
            chosen.token()
            request.prompt_logprobs.append(chosen)
