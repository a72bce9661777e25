"""Choosing a token: the noise, the filters in their order, and what may not be chosen."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from ling.errors import RequestError
from ling.infer.choice import Filters, RowChoice, next_choice
from ling.infer.request import Request, SamplingParams
from ling.infer.sampler import choose, gumbel_noise, kept, masses, penalised

WORD = (1 << 64) - 1


# ---- noise -------------------------------------------------------------------------------------


def mixed(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & WORD
    return x ^ (x >> 31)


def noise_by_formula(seed, position, i):
    golden = 0x9E3779B97F4A7C15
    key = mixed((seed & WORD) ^ ((position + 1) * golden & WORD))
    bits = mixed((mixed((key + i * golden) & WORD) + golden) & WORD)
    return -math.log(-math.log(((bits >> 11) + 0.5) / 2**53))


@pytest.mark.parametrize("seed", [0, 1, -1, 123456789, (1 << 64) - 1, -(1 << 63)])
@pytest.mark.parametrize("position", [0, 1, 131071])
def test_noise_is_that_of_the_formula_in_whole_numbers(seed, position):
    ids = np.array([0, 1, 7, 157183])
    want = [noise_by_formula(seed, position, int(i)) for i in ids]
    np.testing.assert_allclose(gumbel_noise(seed, position, ids), want, rtol=1e-12)


def test_noise_of_an_id_does_not_depend_on_the_others():
    ids = np.arange(1000)
    whole = gumbel_noise(5, 9, ids)
    some = ids[::-7]
    assert (gumbel_noise(5, 9, some) == whole[some]).all()


def test_noise_has_the_moments_of_gumbels_distribution():
    noise = np.concatenate([gumbel_noise(s, 0, np.arange(1000)) for s in range(50)])
    assert noise.mean() == pytest.approx(0.5772, abs=0.03)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.03)


# ---- penalties ---------------------------------------------------------------------------------


def row(tokens=(), num_prompt=0, seed=0, **params):
    """The choice after `tokens`, as a request makes it."""
    request = Request(0, list(tokens[:num_prompt]), SamplingParams(**params), seed, 99)
    request.tokens = list(tokens)
    return next_choice(request, (), frozenset(), None)


def test_penalties_are_those_of_the_formula_after_the_bias():
    logits = np.random.default_rng(0).normal(size=6).astype(np.float32)
    before = logits.copy()
    params = {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.25}
    prompt, output, bias = [0, 1, 1], [1, 2, 2, 2], {2: -1.25, 5: 3.0}
    want = []
    for i, x in enumerate(logits.tolist()):
        x += bias.get(i, 0)
        if i in prompt + output:
            x = x / 1.5 if x > 0 else x * 1.5
        x -= 0.5 * (i in output) + 0.25 * output.count(i)
        want.append(x)
    got = penalised(logits, row(prompt + output, 3, logit_bias=bias, **params))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert (logits == before).all()


def test_ids_beyond_the_row_have_no_effect():
    """Drafts are chosen among the first ids."""
    logits = np.ones(3, np.float32)
    got = penalised(logits, row([9, 1], 2, repetition_penalty=2.0, logit_bias={8: 5, 2: 1}))
    assert got.tolist() == [1, 0.5, 2]


def test_repetition_penalty_follows_the_rule():
    logits = np.float32([2.0, 1.5, -1.0])
    greedy = {"temperature": 0, "repetition_penalty": 2.0}
    assert choose(logits, row([0], 1, **greedy)).token() == 1
    assert choose(np.float32([-1.0, -1.5]), row([0], 1, **greedy)).token() == 1


def test_penalties_that_leave_infinite_scores_are_an_error():
    got = choose(np.float32([3e38, 0]), row([0], 1, repetition_penalty=1e-3))
    assert str(got.error) == "the penalties leave scores that are not finite"


# ---- masses ------------------------------------------------------------------------------------


def test_masses_are_powers_of_two():
    powers = -np.random.default_rng(0).uniform(0, 45, 10_000)
    np.testing.assert_allclose(masses(powers), 2.0 ** (powers + 40), rtol=2e-10, atol=0.501)
    assert masses(np.array([0.0, -1.0, -40.0, -60.0, -1e9, -np.inf])).tolist() == [
        *(1 << 40, 1 << 39, 1, 0, 0, 0)
    ]


@pytest.mark.parametrize("count", [2, 4, 10, 100])
@pytest.mark.parametrize("top_p", [0.1, 0.25, 0.5, 0.9])
def test_of_equal_scores_as_many_are_kept_as_reach_top_p(count, top_p):
    """Sums of whole numbers: 10 times a tenth is not more than one."""
    got = kept(np.zeros(count, np.float32), Filters(1.0, top_p))
    assert got.tolist() == list(range(math.ceil(Fraction(str(top_p)) * count)))


# ---- the choice --------------------------------------------------------------------------------


def drawn(logits, count, **params):
    """The tokens of this many seeds."""
    return {choose(logits, row([0], 1, s, **params)).token() for s in range(count)}


def test_sampling_has_the_softmax_distribution():
    logits = np.float32([2.0, 1.0, 0.0, -1.0, 9.0])
    choices = [
        RowChoice(Filters(1.0), seed=s, position=5, excluded=np.int32([4])) for s in range(8000)
    ]
    draws = np.bincount([choose(logits, c).token() for c in choices], minlength=5)
    want = np.exp(logits[:4]) / np.exp(logits[:4]).sum() * 8000
    assert draws[4] == 0
    assert ((draws[:4] - want[:4]) ** 2 / want[:4]).sum() < 20  # chi-square, 3 degrees of freedom


def test_filters_keep_the_smallest_sufficient_set():
    logits = np.log(np.float32([0.5, 0.3, 0.15, 0.05]))
    for params, allowed in (
        ({"top_p": 0.49}, {0}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"min_p": 0.25}, {0, 1, 2}),
    ):
        assert drawn(logits, 400, **params) == allowed


def test_min_p_is_a_share_of_the_likeliest_after_top_k_and_top_p_of_what_is_left():
    p = np.float32([0.4, 0.3, 0.1, 0.1, 0.1])
    for params, allowed in (
        # Of 0.4 and 0.3 the first is 57%: below top-p, so the second one stays too.
        ({"top_k": 2, "top_p": 0.56}, {0}),
        ({"top_k": 2, "top_p": 0.58}, {0, 1}),
        ({"min_p": 0.5, "top_p": 0.56}, {0}),
        ({"min_p": 0.26}, {0, 1}),
        ({"min_p": 0.24}, {0, 1, 2, 3, 4}),
        ({"top_k": 3}, {0, 1, 2}),  # of equal ones the lowest id
    ):
        assert drawn(np.log(p), 300, **params) == allowed, params


def test_temperature_divides_the_scores():
    logits = np.float32([1.0, 0.0, -1.0])
    choices = [row([0], 1, s, temperature=0.5) for s in range(4000)]
    draws = np.bincount([choose(logits, c).token() for c in choices], minlength=3)
    want = np.exp(2 * logits) / np.exp(2 * logits).sum() * 4000
    assert ((draws - want) ** 2 / want).sum() < 18  # chi-square, 2 degrees of freedom


def test_the_choice_is_the_largest_score_plus_noise_at_its_position():
    logits = np.random.default_rng(0).normal(size=50).astype(np.float32)
    for seed, tokens in ((1, [0]), (2, [0] * 9)):
        noisy = logits.astype(np.float64) + gumbel_noise(seed, len(tokens), np.arange(50))
        assert choose(logits, row(tokens, 1, seed)).token() == noisy.argmax()


def test_equal_scores_go_to_the_lowest_id():
    assert choose(np.zeros(5, np.float32), RowChoice()).token() == 0
    greedy = row([0, 1], 2, temperature=0, repetition_penalty=2.0)
    assert choose(np.ones(5, np.float32), greedy).token() == 2


# ---- what may not be chosen --------------------------------------------------------------------


def test_excluded_banned_and_masked_ids_are_not_drawn_and_scores_stay_the_models_own():
    logits = np.float32([9.0, 9.0, 0.0, 0.0, 9.0])
    before = logits.copy()
    mask = np.uint32([0b01111])
    for seed in range(50):
        choice = RowChoice(Filters(1.0), seed, excluded=np.int32([0, 900]), mask=mask)
        assert choose(logits, choice, np.int32([1, 700])).token() in (2, 3)
    assert (logits == before).all()


def test_a_row_without_an_id_is_an_error():
    got = choose(np.zeros(3, np.float32), RowChoice(mask=np.uint32([2])), np.int32([1]))
    assert str(got.error) == "no token may be chosen: every id is banned, or outside of the grammar"
    with pytest.raises(RequestError, match="every id is banned, or outside of the grammar"):
        got.token()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_an_error_of_the_models(value):
    got = choose(np.float32([0, value, 1]), RowChoice(position=7, excluded=np.int32([1])))
    assert got.error.code == "scores_not_finite"
    assert "scores for token 7 are not finite" in str(got.error)


def test_log_probabilities_are_those_of_the_scores_before_everything_else():
    logits = np.float32([3.0, 1.0, 2.0, 2.0])
    choice = row([0, 0], 1, temperature=0, presence_penalty=2.0, logit_bias={1: 5})
    choice.num_best = 2
    got = choose(logits, choice, np.int32([0]))
    want = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    assert (got.token_id, got.rank, got.best_ids.tolist()) == (1, 4, [0, 2])
    assert got.logprob == pytest.approx(want[1], abs=1e-6)
    np.testing.assert_allclose(got.best_logprobs, want[[0, 2]], atol=1e-6)
