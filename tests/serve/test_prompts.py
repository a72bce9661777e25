"""From bodies to token ids and sampling parameters."""

from __future__ import annotations

import pytest
from fake_llm import NAME, SCRIPT, FakeLLM
from fastapi.testclient import TestClient
from http_replies import CHAT, PLAIN, problem, streamed

from ling.errors import RequestError
from ling.serve import prompts
from ling.serve.app import create_app
from ling.serve.schema import ChatRequest, CompletionRequest
from ling.serve.service import Job


def chat(**fields):
    return ChatRequest(**{**CHAT, **fields})


def plain(**fields):
    return CompletionRequest(**{**PLAIN, **fields})


# ---- ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("ab", 1), (["ab", "c"], 2), ([97, 98], 1), ([[97, 98], [99]], 2)],
    ids=["text", "texts", "ids", "id lists"],
)
def test_completion_takes_every_form_of_prompt(client, prompt, count):
    body = {"model": NAME, "prompt": prompt, "n": 2, "max_tokens": 4}
    reply = client.post("/v1/completions", json=body).json()
    assert [c["index"] for c in reply["choices"]] == list(range(2 * count))
    assert all(c["text"] == "Grü" and c["finish_reason"] == "length" for c in reply["choices"])
    assert reply["usage"]["prompt_tokens"] == (2 if count == 1 else 3)
    assert reply["usage"]["completion_tokens"] == 4 * 2 * count


def test_text_parts_and_developer_role_are_read(client):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "d"}, {"role": "user", "content": parts}]
    tokens = client.post("/tokenize", json={"messages": messages}).json()["tokens"]
    assert bytes(tokens) == b"<system>d<user>ab<assistant>"


def test_tokenize_and_detokenize_are_inverse(client):
    reply = client.post("/tokenize", json={"prompt": SCRIPT}).json()
    assert reply["tokens"] == list(SCRIPT.encode())
    assert reply["count"] == len(reply["tokens"])
    assert client.post("/detokenize", json={"tokens": reply["tokens"]}).json() == {"prompt": SCRIPT}


def test_model_without_tokenizer_reads_ids_only():
    llm = FakeLLM(tokenizer=False)
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        ids = {"model": NAME, "prompt": [1, 2], "max_tokens": 3}
        assert client.post("/v1/completions", json=ids).status_code == 200
        refused = [
            client.post("/v1/completions", json=PLAIN),
            client.post("/v1/chat/completions", json=CHAT),
            client.post("/tokenize", json={"prompt": "a"}),
            client.post("/v1/completions", json={**ids, "stop": "x"}),
        ]
    assert [r.json()["error"]["param"] for r in refused] == ["prompt", "messages", "prompt", "stop"]
    assert all("no tokenizer" in r.json()["error"]["message"] for r in refused)


def test_an_answers_thoughts_reach_the_template_and_tools_do_not(llm):
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "c", "name": "x"},
    ]
    seen = []
    llm.render = lambda *given: seen.append(given) or "text"
    assert bytes(prompts.encode_chat(llm, chat(messages=messages).messages, False)) == b"text"
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


def test_sampling_defaults_are_openais_and_fields_reach_the_engine(client, llm):
    client.post("/v1/chat/completions", json=CHAT)
    plain = llm.params[-1]
    assert (plain.temperature, plain.top_p, plain.seed, plain.logprobs) == (1.0, 1.0, None, None)
    assert plain.max_tokens == llm.max_model_len - len("<user>hi<assistant>")
    fields = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 0.5,
        "seed": 3,
        "min_tokens": 2,
        "stop_token_ids": [5],
        "ignore_eos": True,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
    }
    client.post("/v1/completions", json={**PLAIN, **fields, "stop": "x", "max_tokens": 9})
    given = llm.params[-1]
    assert {name: getattr(given, name) for name in fields} == fields
    assert given.max_tokens == 9
    assert list(given.stop) == ["x"]


def test_max_tokens_is_bounded_by_the_context(client, llm):
    for field in ("max_tokens", "max_completion_tokens"):
        assert client.post("/v1/chat/completions", json={**CHAT, field: 10**18}).status_code == 200
        assert llm.params[-1].max_tokens < llm.max_model_len


def test_default_completion_has_sixteen_tokens(client):
    assert client.post("/v1/completions", json=PLAIN).json()["usage"]["completion_tokens"] == 16


def test_choices_have_their_own_seeds(client, llm):
    reply = client.post("/v1/chat/completions", json={**CHAT, "n": 3, "seed": 7}).json()
    assert [c["index"] for c in reply["choices"]] == [0, 1, 2]
    assert [c["message"]["content"] for c in reply["choices"]] == [
        f"{SCRIPT}{7 + i}" for i in range(3)
    ]
    events = streamed(client, "/v1/chat/completions", {**CHAT, "n": 3, "seed": 7})
    texts = ["", "", ""]
    for event in events:
        choice = event["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [f"{SCRIPT}{7 + i}" for i in range(3)]


def test_prompt_over_context_names_both_numbers(client, llm):
    for path, body in (
        ("/v1/completions", {**PLAIN, "prompt": "x" * 300}),
        ("/v1/completions", {**PLAIN, "prompt": [1] * llm.max_model_len}),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "x" * 300}]}),
    ):
        error = problem(client.post(path, json=body), 400)
        assert error["code"] == "context_length_exceeded"
        assert str(llm.max_model_len) in error["message"]
    assert "317" in error["message"]


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


def test_prompts_are_scored_in_one_call_with_one_token_each(llm):
    calls = []
    llm.generate = lambda requests, params: calls.append((requests, params)) or "outputs"
    (params,) = prompts.completion_params(llm, plain(max_tokens=9, min_tokens=3), [1])
    assert prompts.score(llm, [Job([1], params), Job([2], params)], 4) == "outputs"
    ((requests, given),) = calls
    assert requests == [{"prompt_token_ids": [1]}, {"prompt_token_ids": [2]}]
    assert [(p.max_tokens, p.min_tokens, p.prompt_logprobs) for p in given] == [(1, 0, 4)] * 2
    assert (params.max_tokens, params.min_tokens) == (9, 3)  # theirs stay as they are
