"""Choosing a token, in numpy: the oracle of `csrc/sampling.cpp`, and what the reference runs.

Sampling is Gumbel-max: the token with the largest score plus Gumbel noise has exactly the softmax
distribution. The noise is a function of (seed, position, id) and of nothing else, so a draft made
with the same noise either equals what the model itself samples there or is dropped: speculative
output equals plain output token for token at any temperature; no batch, chunk or preemption can
change it.

Ids are ordered by falling score, equal ones by id; top-k, min-p and top-p each keep a prefix of
that order. For top-p the probabilities are whole numbers (`masses`): their sums are the same in any
order, so that the core, which sums by bucket, finds the same border without sorting.
"""

from __future__ import annotations

import math

import numpy as np

from .choice import (
    BAD_PENALTY,
    CHOSEN,
    NO_IDS,
    NONE_LEFT,
    NOT_FINITE,
    Chosen,
    Filters,
    RowChoice,
    failure,
)

_MASK = (1 << 64) - 1
_LOG2_E = 1.4426950408889634
MASS_BITS = 40
# 2^r for |r| <= 1/2 within 2e-10, by interpolation at Chebyshev's points (csrc/sampling.h).
_POWER_2 = (
    1.0,
    0.6931471805568316,
    0.24022650922342711,
    0.05550410906331985,
    0.009618056669891501,
    0.0013333478467158545,
    0.00015461447461298118,
    1.5303702451919612e-05,
)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, vectorised (Steele et al., OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def gumbel_noise(seed: int, position: int, ids: np.ndarray) -> np.ndarray:
    """Standard Gumbel noise (float64) for token `ids` at `position`."""
    golden = 0x9E3779B97F4A7C15
    with np.errstate(over="ignore", divide="ignore"):
        key = _mix(np.asarray([(seed & _MASK) ^ ((position + 1) * golden & _MASK)], np.uint64))
        bits = _mix(_mix(key + ids.astype(np.uint64) * np.uint64(golden)) + np.uint64(golden))
        uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
        return -np.log(-np.log(uniform))


def masses(powers: np.ndarray) -> np.ndarray:
    """2^power for powers (float64) of at most 0, as whole numbers of 2^-40.

    Every operation is rounded once and none is left to a library, so that the core has the same
    bits on every machine.
    """
    powers = np.maximum(powers, -60.0)
    whole = np.rint(powers)
    rest, p = powers - whole, _POWER_2[-1]
    for factor in _POWER_2[-2::-1]:
        p = p * rest + factor
    return np.rint(np.ldexp(p, whole.astype(np.int64) + MASS_BITS)).astype(np.int64)


def penalised(scores_V: np.ndarray, choice: RowChoice) -> np.ndarray:
    """A copy with the bias added, then the repetition penalty over prompt and output, then presence
    and frequency over the output."""
    scores, f = scores_V.copy(), choice.filters
    ids, bias = _inside(choice.bias_ids, choice.bias, len(scores))
    np.add.at(scores, ids, bias)
    if not f.penalise:
        return scores
    ids, counts = _inside(choice.seen, choice.counts, len(scores))
    values = scores[ids]
    if f.repetition_penalty != 1.0:
        r = np.float32(f.repetition_penalty)
        values = np.where(values > 0, values / r, values * r)
    drop = np.float32(f.presence_penalty) + np.float32(f.frequency_penalty) * counts.astype("f4")
    scores[ids] = np.where(counts > 0, values - drop, values)
    return scores


def _inside(ids: np.ndarray, values: np.ndarray, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    keep = (ids >= 0) & (ids < vocab)
    return ids[keep], values[keep]


def _exclude(scores: np.ndarray, choice: RowChoice, banned: np.ndarray) -> None:
    for ids in (choice.excluded, banned):
        scores[ids[(ids >= 0) & (ids < len(scores))]] = -np.inf
    if choice.mask is not None:
        allowed = np.unpackbits(choice.mask.view(np.uint8), count=len(scores), bitorder="little")
        scores[allowed == 0] = -np.inf


def kept(scores_V: np.ndarray, f: Filters) -> np.ndarray:
    """Ids that top-k, min-p and top-p leave, in order; ids of -inf are never left."""
    order = np.argsort(-scores_V, kind="stable")
    order = order[np.isfinite(scores_V[order])]
    if f.top_k > 0:
        order = order[: f.top_k]
    s = scores_V[order].astype(np.float64)
    powers = (s - s[0]) * (f.inverse_temperature * _LOG2_E)
    keep = powers >= f.least_power
    order, powers = order[keep], powers[keep]
    if f.top_p < 1:
        # The smallest set that reaches top_p: what came before an entry must be below it.
        m = masses(powers)
        order = order[np.cumsum(m) - m < math.ceil(f.top_p * float(m.sum()))]
    return order


def _choose_id(scores_V: np.ndarray, choice: RowChoice, banned: np.ndarray) -> tuple[int, int]:
    """The id, and how the choice ended."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scores = penalised(scores_V, choice)
    _exclude(scores, choice, banned)
    top, f = scores.max(), choice.filters
    if not math.isfinite(top):
        return -1, NONE_LEFT if top == -math.inf else BAD_PENALTY
    if not f.inverse_temperature:
        return int(scores.argmax()), CHOSEN
    order = kept(scores, f)
    noise = gumbel_noise(choice.seed, choice.position, order)
    tempered = scores[order].astype(np.float64) * f.inverse_temperature
    return int(order[np.argmax(tempered + noise)]), CHOSEN


def choose(scores_V: np.ndarray, choice: RowChoice, banned: np.ndarray = NO_IDS) -> Chosen:
    """The token of one row of scores (float32); of equal scores the lowest id.

    Order: bias, penalties, ids that may not be chosen, temperature, top-k, min-p, top-p.
    """
    if not np.isfinite(scores_V).all():
        return Chosen(-1, failure(NOT_FINITE, choice.position))
    token, status = choice.given, CHOSEN
    if token < 0:
        token, status = _choose_id(scores_V, choice, banned)
    out = Chosen(token, failure(status, choice.position))
    if choice.num_best is not None and out.error is None:
        _score(out, scores_V, choice.num_best)
    return out


def _score(out: Chosen, scores_V: np.ndarray, num_best: int) -> None:
    s = scores_V.astype(np.float64)
    s -= s.max()
    logprobs = s - math.log(np.exp(s).sum())
    with np.errstate(over="ignore"):  # scores may be further apart than float32 reaches
        logprobs = logprobs.astype(np.float32)
    out.logprob = float(logprobs[out.token_id])
    out.rank = int((scores_V > scores_V[out.token_id]).sum()) + 1
    best = np.argsort(-scores_V, kind="stable")[:num_best]
    out.best_ids, out.best_logprobs = best.astype(np.int32), logprobs[best]
