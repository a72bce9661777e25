"""Fields of requests: wrong ones are named, those that change nothing are accepted."""

import json

import pytest
from http_replies import CHAT, JSON, PLAIN, problem

BAD_CHAT = [
    ("model", {"model": 5}),
    ("model", {"model": None}),
    ("messages", {"messages": []}),
    ("messages", {"messages": "hi"}),
    ("messages[0].role", {"messages": [{"role": "wizard", "content": "x"}]}),
    ("messages[0].content", {"messages": [{"role": "user"}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": 5}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": "\ud800"}]}),
    (
        "messages[0].content",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://x"}}],
                }
            ]
        },
    ),
    (
        "messages[0].tool_calls",
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
    ),
    ("n", {"n": 10**9}),
    ("n", {"n": 0}),
    ("n", {"n": True}),
    ("temperature", {"temperature": -1}),
    ("temperature", {"temperature": "hot"}),
    ("top_p", {"top_p": 0}),
    ("top_p", {"top_p": 1.5}),
    ("top_k", {"top_k": 1.5}),
    ("min_p", {"min_p": 2}),
    ("repetition_penalty", {"repetition_penalty": 0}),
    ("presence_penalty", {"presence_penalty": 3}),
    ("frequency_penalty", {"frequency_penalty": "x"}),
    ("seed", {"seed": 2**70}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1}),
    ("max_completion_tokens", {"max_completion_tokens": 0}),
    ("min_tokens", {"min_tokens": 50, "max_tokens": 5}),
    ("stop", {"stop": ["x"] * 10_000}),
    ("stop", {"stop": [""]}),
    ("stop", {"stop": 5}),
    ("stream", {"stream": "yes"}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("logprobs", {"logprobs": 1}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 10**9}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("response_format", {"response_format": {"type": "json_object"}}),
    ("logit_bias", {"logit_bias": {"5": 1}}),
    ("chat_template", {"chat_template": "{{ 1 }}"}),
    ("chat_template_kwargs", {"chat_template_kwargs": {"a": 1}}),
    ("user", {"user": 5}),
    ("tempratur", {"tempratur": 1}),
    ("max_completion_tokens", {"max_completion_tokens": "many"}),
]


@pytest.mark.parametrize(
    ("param", "change"), BAD_CHAT, ids=[f"{i}-{p}" for i, (p, _) in enumerate(BAD_CHAT)]
)
def test_bad_chat_field_is_named(client, param, change):
    # `json=` of the client refuses half surrogate pairs; escaped they can be sent.
    reply = client.post(
        "/v1/chat/completions", content=json.dumps({**CHAT, **change}), headers=JSON
    )
    error = problem(reply, 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


BAD_PLAIN = [
    ("prompt", {"prompt": None}),
    ("prompt", {"prompt": []}),
    ("prompt", {"prompt": ""}),
    ("prompt", {"prompt": [[]]}),
    ("prompt", {"prompt": [1, "a"]}),
    ("prompt", {"prompt": [True]}),
    ("prompt", {"prompt": [-1]}),
    ("prompt", {"prompt": [256]}),
    ("prompt", {"prompt": ["a"] * 1000}),
    ("logprobs", {"logprobs": 21}),
    ("logprobs", {"logprobs": True}),
    ("max_tokens", {"max_tokens": 0}),
    ("best_of", {"best_of": 10**9}),
    ("suffix", {"suffix": "x"}),
    ("echo", {"echo": 1}),
]


@pytest.mark.parametrize(
    ("param", "change"), BAD_PLAIN, ids=[f"{i}-{p}" for i, (p, _) in enumerate(BAD_PLAIN)]
)
def test_bad_completion_field_is_named(client, param, change):
    assert problem(client.post("/v1/completions", json={**PLAIN, **change}), 400)["param"] == param


def test_harmless_fields_are_accepted(client):
    extra = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logit_bias": None,
        "parallel_tool_calls": True,
    }
    assert client.post("/v1/chat/completions", json={**CHAT, **extra}).status_code == 200
