"""From bodies to token ids and sampling parameters."""

from __future__ import annotations

import pytest
from fake_llm import FakeLLM
from http_replies import CHAT, PLAIN

from ling.errors import RequestError
from ling.serve import prompts
from ling.serve.schema.chat import ChatRequest
from ling.serve.schema.completion import CompletionRequest
from ling.serve.service import Job


def chat(**fields):
    return ChatRequest(**{**CHAT, **fields}).conversation()


def plain(**fields):
    return CompletionRequest(**{**PLAIN, **fields})


# ---- ids ---------------------------------------------------------------------------------------


def test_an_answers_thoughts_reach_the_template_and_tools_do_not(llm):
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "c", "name": "x"},
    ]
    seen = []
    llm.render = lambda *given, **options: seen.append(given) or "text"
    body = chat(messages=messages, add_generation_prompt=False)
    assert prompts.encode_chat(llm, body) == ("text", list(b"text"))
    ((given, tools, add_generation_prompt),) = seen
    assert given == [messages[0], {"role": "assistant", "content": "b", "reasoning_content": "c"}]
    assert (tools, add_generation_prompt) == (None, False)


def test_ids_that_stand_for_nothing_are_refused(llm):
    for ids in ([256], [-1], [10**40]):
        with pytest.raises(RequestError, match="is not in the vocabulary of 256") as err:
            prompts.decode(llm, ids)
        assert err.value.param == "tokens"
        assert len(str(err.value)) < 100
        with pytest.raises(RequestError) as err:
            prompts.completion_prompts(llm, plain(prompt=[[1], ids]))
        assert err.value.param == "prompt"
    assert prompts.decode(llm, [0x47, 0xC3, 0xBC]) == "Gü"


def test_the_text_of_ids_is_empty_without_a_tokenizer():
    assert prompts.text_of(FakeLLM(), [0x47]) == "G"
    assert prompts.text_of(FakeLLM(tokenizer=False), [0x47]) == ""


# ---- parameters --------------------------------------------------------------------------------


def test_the_newer_name_of_the_limit_goes_first(llm):
    (params,) = prompts.chat_params(llm, chat(max_tokens=5, max_completion_tokens=7), [1])
    assert params.max_tokens == 7
    (params,) = prompts.chat_params(llm, chat(max_tokens=5), [1])
    assert params.max_tokens == 5
    (params,) = prompts.chat_params(llm, chat(), [1] * 150)
    assert params.max_tokens == 50
    (params,) = prompts.completion_params(llm, plain(echo=True, max_tokens=0), [1])
    assert params.max_tokens == 1  # nothing is generated: the prompt is scored


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 3}, 3),
    ],
)
def test_log_probabilities_of_a_chat_are_counted_beside_the_token(llm, fields, logprobs):
    (params,) = prompts.chat_params(llm, chat(**fields), [1])
    assert params.logprobs == logprobs


def test_choices_have_seeds_in_a_row_or_none(llm):
    assert [p.seed for p in prompts.chat_params(llm, chat(n=3, seed=-1), [1])] == [-1, 0, 1]
    assert [p.seed for p in prompts.chat_params(llm, chat(n=2), [1])] == [None, None]


def test_a_seed_among_the_models_defaults_is_that_of_requests_without_one(llm):
    llm.sampling_defaults = {"seed": 7}
    for params in (prompts.chat_params, prompts.completion_params):
        make = chat if params is prompts.chat_params else plain
        assert [p.seed for p in params(llm, make(n=2), [1])] == [7, 8]
        assert [p.seed for p in params(llm, make(seed=3), [1])] == [3]


def test_prompts_are_scored_with_one_token_each(llm):
    (params,) = prompts.completion_params(llm, plain(max_tokens=9, min_tokens=3), [1])
    jobs = prompts.scoring_jobs([Job([1], params), Job([2], params)], 4)
    assert [job.prompt_token_ids for job in jobs] == [[1], [2]]
    given = [job.params for job in jobs]
    assert [(p.max_tokens, p.min_tokens, p.prompt_logprobs) for p in given] == [(1, 0, 4)] * 2
    assert (params.max_tokens, params.min_tokens) == (9, 3)  # theirs stay as they are
