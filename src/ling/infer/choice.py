"""What the choice of a token depends on beside the scores, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import RequestError
from .constraint import leaves_other

if TYPE_CHECKING:
    from .request import Request, SamplingParams

CHOSEN, NOT_FINITE, NONE_LEFT, BAD_PENALTY = range(4)
"""How a choice ends (csrc/ling_kernels.h: `ling_chosen`)."""

NO_IDS = np.empty(0, np.int32)
NO_VALUES = np.empty(0, np.float32)


class Filters(NamedTuple):
    """Sampling parameters as the choice uses them."""

    inverse_temperature: float = 0.0
    """0: the largest score."""
    top_p: float = 1.0
    least_power: float = -math.inf
    """log2 of min-p."""
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @classmethod
    def of(cls, params: SamplingParams) -> Filters:
        """The filters that a request asks for."""
        return cls(
            0.0 if params.greedy else 1.0 / params.temperature,
            params.top_p,
            math.log2(params.min_p) if params.min_p else -math.inf,
            max(params.top_k, 0),
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        )

    @property
    def penalise(self) -> bool:
        """Whether the tokens so far matter."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)


GREEDY = Filters()


@dataclass(slots=True)
class RowChoice:
    """How the token of one row is chosen; ids outside of the row have no effect.

    `seen` are the distinct ids of prompt and output, `counts` says how often each is in the output.
    """

    filters: Filters = GREEDY
    seed: int = 0
    position: int = 0
    seen: np.ndarray = field(default_factory=lambda: NO_IDS)
    counts: np.ndarray = field(default_factory=lambda: NO_IDS)
    bias_ids: np.ndarray = field(default_factory=lambda: NO_IDS)
    bias: np.ndarray = field(default_factory=lambda: NO_VALUES)
    excluded: np.ndarray = field(default_factory=lambda: NO_IDS)
    mask: np.ndarray | None = None
    num_best: int | None = None
    """Log-probabilities wanted: the token's own and this many of the most likely ids."""
    given: int = -1
    """The token, where it is known and only its log-probability is wanted."""


@dataclass(slots=True)
class Chosen:
    """A row's token, or why there is none; log-probabilities where they were asked for.

    They are those of the scores before bias, penalties and temperature. The rank counts what is
    more likely than the token, from 1 on.
    """

    token_id: int
    error: RequestError | None = None
    logprob: float = 0.0
    rank: int = 0
    best_ids: np.ndarray = field(default_factory=lambda: NO_IDS)
    best_logprobs: np.ndarray = field(default_factory=lambda: NO_VALUES)

    def token(self) -> int:
        """The token; raises the row's error."""
        if self.error is not None:
            raise self.error
        return self.token_id


def failure(status: int, position: int) -> RequestError | None:
    """The error of a row whose choice ended in a status, None for a token."""
    if status == CHOSEN:
        return None
    if status == NOT_FINITE:
        return RequestError(
            f"the model's scores for token {position} are not finite: its weights are damaged, or "
            "its numbers grow beyond their type (`ling verify` checks a folder)",
            status=500,
            code="scores_not_finite",
        )
    return RequestError(
        "no token may be chosen: every id is banned, or outside of the grammar"
        if status == NONE_LEFT
        else "the penalties leave scores that are not finite"
    )


class TokenCounts:
    """Distinct ids of a sequence, and how often each is in its output; it grows with the sequence,
    so that a step costs what is new."""

    def __init__(self, num_prompt_tokens: int) -> None:
        self.num_prompt_tokens, self.num_tokens = num_prompt_tokens, 0
        self._index: dict[int, int] = {}
        self._ids, self._counts = np.zeros(64, np.int32), np.zeros(64, np.int32)

    def extend(self, tokens: Sequence[int]) -> None:
        """Count those of `tokens` that are new since the last call."""
        for position in range(self.num_tokens, len(tokens)):
            i = self._index.setdefault(tokens[position], len(self._index))
            if i == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[i] = tokens[position]
            self._counts[i] += position >= self.num_prompt_tokens
        self.num_tokens = len(tokens)

    def with_drafts(self, drafts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and counts as if `drafts` were output; without drafts valid until the next call."""
        n = len(self._index)
        ids, counts = self._ids[:n], self._counts[:n]
        if not drafts:
            return ids, counts
        new = [d for d in dict.fromkeys(drafts) if d not in self._index]
        index = {d: n + i for i, d in enumerate(new)}
        ids = np.concatenate((ids, np.array(new, np.int32)))
        counts = np.concatenate((counts, np.zeros(len(new), np.int32)))
        for d in drafts:
            counts[index[d] if d in index else self._index[d]] += 1
        return ids, counts


class Choosing:
    """What stays the same over a request's choices, and its counts."""

    def __init__(self, request: Request) -> None:
        params = request.params
        bias = params.logit_bias or {}
        self.filters = Filters.of(params)
        self.bias_ids = np.fromiter(bias.keys(), np.int32, len(bias))
        self.bias = np.fromiter(bias.values(), np.float32, len(bias))
        self.counts = TokenCounts(request.num_prompt_tokens)


def next_choice(
    request: Request,
    drafts: Sequence[int],
    stop_token_ids: frozenset[int],
    num_best: int | None,
) -> RowChoice:
    """How the token after a request's tokens and `drafts` is chosen.

    Before `min_tokens` no token that would stop the request is, unless the request's constraint
    leaves nothing else. `num_best` as in `RowChoice`.
    """
    if request.choosing is None:
        request.choosing = Choosing(request)
    choosing, params = request.choosing, request.params
    row = RowChoice(
        choosing.filters, request.seed, len(request.tokens) + len(drafts), num_best=num_best
    )
    row.bias_ids, row.bias = choosing.bias_ids, choosing.bias
    if choosing.filters.penalise:
        choosing.counts.extend(request.tokens)
        row.seen, row.counts = choosing.counts.with_drafts(drafts)
    if row.position - request.num_prompt_tokens < params.min_tokens:
        stops = [*stop_token_ids, *(params.stop_token_ids or ())]
        row.excluded = np.array([i for i in stops if i < 1 << 31], np.int32)
    if request.constraint is not None:
        row.mask = request.constraint.mask(drafts)
        if len(row.excluded) and not leaves_other(row.mask, row.excluded):
            row.excluded = NO_IDS  # the answer is complete, however short it is
    return row


def next_choices(
    request: Request, num_drafts: int, stop_token_ids: frozenset[int], vocab: int
) -> list[RowChoice]:
    """The choices of a step: after the request's tokens, and after each of its first drafts."""
    k = request.params.logprobs
    num_best = vocab if k == -1 else k
    return [
        next_choice(request, request.drafts[:i], stop_token_ids, num_best)
        for i in range(num_drafts + 1)
    ]
