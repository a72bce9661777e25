"""What a caller may ask for, and the state of one request."""

from __future__ import annotations

import numpy as np
import pytest

from ling.errors import RequestError
from ling.infer.request import MAX_BIASED, MAX_N, Request, SamplingParams


@pytest.mark.parametrize(
    "bad",
    [{"temperature": float("nan")}, {"temperature": -1}, {"top_p": 0}, {"top_k": -2}, {"n": 0},
     {"max_tokens": 0}, {"stop": [""]}, {"repetition_penalty": 0}, {"logprobs": -2}],
)  # fmt: skip
def test_bad_parameters_are_named(bad):
    with pytest.raises(RequestError) as err:
        SamplingParams(**bad)
    assert err.value.param == next(iter(bad))


@pytest.mark.parametrize(
    "bad",
    [{"temperature": float("inf")}, {"temperature": True}, {"temperature": "hot"},
     {"top_p": 1.01}, {"min_p": -0.1}, {"min_p": 1.5}, {"presence_penalty": 2.1},
     {"frequency_penalty": -2.1}, {"repetition_penalty": float("inf")}, {"n": MAX_N + 1},
     {"n": 1.5}, {"top_k": True}, {"min_tokens": -1}, {"prompt_logprobs": 1.5},
     {"stop": ["x", 5]}, {"seed": 1.5}, {"seed": 1 << 65},
     {"logit_bias": {5: 100.5}}, {"logit_bias": {5: float("nan")}}, {"logit_bias": {-1: 0}},
     {"logit_bias": {"x": 0}}, {"logit_bias": [5]}, {"logit_bias": {5: True}},
     {"logit_bias": {1 << 31: 0}}, {"logit_bias": dict.fromkeys(range(MAX_BIASED + 1), 0)}],
    ids=str,
)  # fmt: skip
def test_what_no_sampler_could_do_is_named(bad):
    (name,) = bad
    with pytest.raises(RequestError, match=f"`{name}`") as err:
        SamplingParams(**bad)
    assert err.value.param == name


def test_limits_themselves_are_allowed():
    SamplingParams(temperature=0, top_p=1, min_p=1, top_k=-1, n=MAX_N, max_tokens=None)
    SamplingParams(presence_penalty=-2, frequency_penalty=2, logprobs=-1, prompt_logprobs=0)
    SamplingParams(seed=-(1 << 63), min_tokens=0, max_tokens=1, repetition_penalty=1e-9)


def test_a_bias_may_name_its_tokens_in_digits_as_json_does():
    params = SamplingParams(logit_bias={"7": -100, np.int64(8): 1})
    assert params.logit_bias == {7: -100.0, 8: 1.0}
    assert SamplingParams(logit_bias=dict.fromkeys(range(MAX_BIASED), 100)).logit_bias


def test_one_stop_text_is_a_list_of_one_and_lists_are_copied():
    ids = [5]
    params = SamplingParams(stop="x", stop_token_ids=ids)
    ids.append(6)
    assert (params.stop, params.stop_token_ids) == (["x"], [5])
    assert (SamplingParams().stop, SamplingParams().stop_token_ids) == ([], [])


def test_only_the_largest_score_itself_is_plain_greedy():
    assert SamplingParams(temperature=0).plain_greedy
    assert SamplingParams(temperature=9e-6).greedy
    assert not SamplingParams(temperature=1e-5).greedy
    for penalty in ({"repetition_penalty": 1.1}, {"presence_penalty": 1}, {"frequency_penalty": 1},
                    {"logit_bias": {1: 1}}):  # fmt: skip
        params = SamplingParams(temperature=0, **penalty)
        assert params.greedy
        assert not params.plain_greedy


def test_output_is_what_comes_behind_the_prompt():
    r = Request(1, [5, 6, 7], SamplingParams(), 0, 9)
    assert (r.num_prompt_tokens, r.output, r.num_output_tokens) == (3, [], 0)
    r.tokens += [8, 9]
    assert (r.output, r.num_output_tokens) == ([8, 9], 2)


def test_requests_are_told_apart_though_they_ask_the_same():
    a, b = (Request(1, [5], SamplingParams(), 0, 9) for _ in range(2))
    assert a != b
    assert len({a, b}) == 2
    assert a.block_table is not b.block_table
