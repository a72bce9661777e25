"""What an engine refuses before a request is queued, and the room it gives to the others."""

from __future__ import annotations

import pytest

from ling.config.engine import EngineConfig
from ling.errors import RequestError
from ling.infer.engine import Engine
from ling.infer.limits import Limits
from ling.infer.open import runner_for
from ling.infer.pages import PAGE
from ling.infer.request import SamplingParams
from ling.model.ling import from_config
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = Limits(vocab_size=100, max_model_len=3 * PAGE, num_pages=2, num_drafts=0)


def test_an_answer_ends_at_what_was_asked_or_at_the_end_of_the_context():
    limits = Limits(vocab_size=100, max_model_len=20, num_pages=1, num_drafts=0)
    assert limits.max_tokens([1] * 5, 7) == 7
    assert limits.max_tokens([1] * 5, 15) == 15
    assert limits.max_tokens([1] * 5, 10**18) == limits.max_tokens([1] * 5, None) == 15
    assert limits.max_tokens([1] * 19, None) == 1


@pytest.mark.parametrize(
    ("ids", "wanted", "words", "code", "param"),
    [
        ([], 1, "the prompt is empty", None, "prompt"),
        ([1, 100], 1, "token id 100 is outside the vocabulary of 100", None, "prompt"),
        ([1, -1, 100], 1, "token id -1 is outside", None, "prompt"),
        (
            [1] * 3 * PAGE,
            1,
            "the prompt has 192 tokens, the context holds 192 with at least one",
            "context_length_exceeded",
            "prompt",
        ),
        (
            [1] * PAGE,
            PAGE + 1,
            "129 tokens need 3 pages, the KV cache has 2",
            "context_length_exceeded",
            "max_tokens",
        ),
    ],
    ids=["empty", "large", "negative", "full", "pages"],
)
def test_a_request_that_could_never_run_is_refused(ids, wanted, words, code, param):
    with pytest.raises(RequestError, match=words) as err:
        LIMITS.max_tokens(ids, wanted)
    assert (err.value.code, err.value.param) == (code, param)


def test_drafts_need_room_behind_the_last_token():
    for num_drafts in (0, 1, 3):
        limits = Limits(vocab_size=100, max_model_len=3 * PAGE, num_pages=2, num_drafts=num_drafts)
        fits = 2 * PAGE - 10 - num_drafts
        assert limits.max_tokens([1] * 10, fits) == fits
        with pytest.raises(RequestError, match="need 3 pages"):
            limits.max_tokens([1] * 10, fits + 1)


def test_an_engine_takes_its_limits_from_model_and_options():
    config = EngineConfig(max_model_len=64, num_pages=3, speculative="mtp", num_drafts=2)
    e = Engine(runner_for(from_config(preset("ling-tiny"), seed=0)), config)
    assert e.limits == Limits(vocab_size=384, max_model_len=64, num_pages=3, num_drafts=2)
    with pytest.raises(RequestError, match="outside the vocabulary of 384"):
        e.add([384], SamplingParams())
    assert not e.has_work


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"logit_bias": {99: 1, 100: 1}}, "`logit_bias` names token 100, outside the vocabulary"),
        ({"logprobs": -1}, "`logprobs` is -1: 101 log-probabilities for each of 2000000 tokens"),
        ({"logprobs": 1 << 30}, "101 log-probabilities"),
        ({"prompt_logprobs": -1}, "for each of 1500000 tokens are above 134217728; ask for fewer"),
    ],
    ids=str,
)
def test_results_that_memory_could_not_hold_are_refused(params, words):
    with pytest.raises(RequestError, match=words) as err:
        LIMITS.check_results(SamplingParams(**params), 1_500_000, 2_000_000)
    assert err.value.param == next(iter(params))


def test_results_that_fit_are_allowed():
    LIMITS.check_results(SamplingParams(logprobs=20, prompt_logprobs=20), 1_500_000, 2_000_000)
    LIMITS.check_results(SamplingParams(logprobs=-1, logit_bias={99: 1}), 100, 1000)
