"""Choosing a token: the noise, the filters in their order, and what may not be chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ling.infer.request import Request, SamplingParams
from ling.infer.sampler import choose, gumbel_noise, next_token, penalised

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


def test_penalties_are_those_of_the_formula():
    logits = torch.randn(6)
    before = logits.clone()
    params = SamplingParams(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.25)
    prompt, output = [0, 1, 1], [1, 2, 2, 2]
    want = []
    for i, x in enumerate(logits.tolist()):
        if i in prompt + output:
            x = x / 1.5 if x > 0 else x * 1.5
        x -= 0.5 * (i in output) + 0.25 * output.count(i)
        want.append(x)
    got = penalised(logits, params, prompt + output, len(prompt))
    torch.testing.assert_close(got, torch.tensor(want))
    assert torch.equal(logits, before)  # they are the runner's own


def test_without_penalties_scores_are_as_they_are():
    logits = torch.randn(6)
    assert penalised(logits, SamplingParams(), [1, 2], 1) is logits
    assert torch.equal(penalised(logits, SamplingParams(presence_penalty=1), [1], 1), logits)


def test_repetition_penalty_follows_the_rule():
    logits = torch.tensor([2.0, 1.5, -1.0])
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert choose(logits, params, 0, [0], 1) == 1
    assert choose(torch.tensor([-1.0, -1.5]), params, 0, [0], 1) == 1


# ---- the choice --------------------------------------------------------------------------------


def test_sampling_has_the_softmax_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-inf")])
    params = SamplingParams(temperature=1.0)
    draws = np.bincount([choose(logits, params, s, [0] * 5, 5) for s in range(8000)], minlength=5)
    want = logits.softmax(-1).numpy() * 8000
    assert draws[4] == 0
    assert ((draws[:4] - want[:4]) ** 2 / want[:4]).sum() < 20  # chi-square, 3 degrees of freedom


def test_filters_keep_the_smallest_sufficient_set():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    for params, allowed in (
        (SamplingParams(top_p=0.5), {0}),
        (SamplingParams(top_p=0.7), {0, 1}),
        (SamplingParams(top_k=3), {0, 1, 2}),
        (SamplingParams(min_p=0.25), {0, 1, 2}),
    ):
        assert {choose(logits, params, s, [0], 1) for s in range(400)} == allowed


def test_min_p_is_a_share_of_the_likeliest_after_top_k_and_top_p_of_what_is_left():
    p = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1])
    for params, allowed in (
        # Of 0.4 and 0.3 the first is 57%: below top-p, so the second one stays too.
        (SamplingParams(top_k=2, top_p=0.56), {0}),
        (SamplingParams(top_k=2, top_p=0.58), {0, 1}),
        (SamplingParams(min_p=0.5, top_p=0.56), {0}),
        (SamplingParams(min_p=0.26), {0, 1}),
        (SamplingParams(min_p=0.24), {0, 1, 2, 3, 4}),
        (SamplingParams(top_k=3), {0, 1, 2}),  # of equal ones the lowest id
    ):
        assert {choose(p.log(), params, s, [0], 1) for s in range(300)} == allowed, params


def test_temperature_divides_the_scores():
    logits = torch.tensor([1.0, 0.0, -1.0])
    params = SamplingParams(temperature=0.5)
    draws = np.bincount([choose(logits, params, s, [0], 1) for s in range(4000)], minlength=3)
    want = (logits / 0.5).softmax(-1).numpy() * 4000
    assert ((draws - want) ** 2 / want).sum() < 18  # chi-square, 2 degrees of freedom


def test_the_choice_is_the_largest_score_plus_noise_at_its_position():
    logits = torch.randn(50)
    for seed, tokens in ((1, [0]), (2, [0] * 9)):
        noisy = logits.double().numpy() + gumbel_noise(seed, len(tokens), np.arange(50))
        assert choose(logits, SamplingParams(), seed, tokens, 1) == noisy.argmax()


def test_equal_scores_go_to_the_lowest_id():
    assert choose(torch.zeros(5), SamplingParams(temperature=0), 0, [3], 1) == 0
    greedy = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert choose(torch.ones(5), greedy, 0, [0, 1], 2) == 2


# ---- what may not be chosen --------------------------------------------------------------------


def token(params, logits, banned=None, stops=(), output=(), best=-1):
    r = Request(0, [0, 0], SamplingParams(**params), 7, 99)
    ids = None if banned is None else torch.tensor(banned)
    return next_token(r, logits, best, [0, 0, *output], ids, frozenset(stops))


def test_a_greedy_token_is_the_runners_own():
    logits = torch.tensor([0.0, 5.0, 1.0])
    assert token({"temperature": 0}, logits, best=2) == 2
    # With a penalty it is not: the score of what was said falls behind.
    assert token({"temperature": 0, "presence_penalty": 2}, logits, output=[1], best=2) == 1
    assert token({"temperature": 0, "repetition_penalty": 9.0}, logits, output=[1], best=1) == 2


def test_banned_ids_are_not_drawn_and_scores_stay_the_models_own():
    logits = torch.tensor([9.0, 9.0, 0.0, 0.0])
    before = logits.clone()
    for seed in range(50):
        got = token({"seed": seed, "temperature": 1.0}, logits, banned=[0, 1, 900])
        assert got in (2, 3)
    assert token({"temperature": 0, "presence_penalty": 1}, logits, banned=[0]) == 1
    assert torch.equal(logits, before)


def test_no_stop_before_the_least_number_of_tokens():
    logits = torch.tensor([9.0, 8.0, 7.0, 0.0])
    params = {"temperature": 0, "min_tokens": 2, "stop_token_ids": [1, 900]}
    assert token(params, logits, stops=[0, 901], best=0) == 2
    assert token(params, logits, stops=[0], output=[3], best=0) == 2
    assert token(params, logits, stops=[0], output=[3, 3], best=0) == 0
