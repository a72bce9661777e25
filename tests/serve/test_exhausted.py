"""More requests than the KV cache has room for: they take turns, and say what they say alone."""

from __future__ import annotations

import concurrent.futures

import pytest
from fastapi.testclient import TestClient
from http_replies import problem, sse
from random_llm import random_llm

from ling.serve.app import create_app

NAME = "tiny"
NUM_REQUESTS = 8


def ask(client, i, **fields):
    """Text of a chat: greedy or sampled, whole or streamed, each with a prompt of its own."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": f"{i} " * (3 + i)}],
        "temperature": i % 2,
        "seed": i,
        "max_tokens": 150,
        "ignore_eos": True,
        "stream": i % 3 == 0,
    }
    reply = client.post("/v1/chat/completions", json={**body, **fields})
    assert reply.status_code == 200, reply.text
    if not body["stream"]:
        return reply.json()["choices"][0]["message"]["content"]
    deltas = [e["choices"][0]["delta"] for e in sse(reply.text)[:-1]]
    return "".join(delta.get("content") or "" for delta in deltas)


def answers(cache, workers):
    """Texts of all requests, so many at a time, and how often one was pre-empted."""
    with (
        random_llm(context=512, **cache) as llm,
        TestClient(create_app(llm, served_model_name=NAME)) as client,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        texts = list(pool.map(lambda i: ask(client, i), range(NUM_REQUESTS)))
        client.app.state.service.close()
        return texts, llm.stats.preemptions


def test_requests_beyond_the_cache_say_what_they_say_alone():
    alone, preempted = answers({}, 1)
    assert preempted == 0
    together, preempted = answers({"num_pages": 9}, NUM_REQUESTS)
    assert preempted > 0
    assert together == alone


@pytest.mark.parametrize("limit", [None, 400])
def test_a_request_that_can_never_fit_is_refused(limit):
    with (
        random_llm(context=512, num_pages=2) as llm,
        TestClient(create_app(llm, served_model_name=NAME)) as client,
    ):
        body = {"model": NAME, "prompt": [1] * 200, "max_tokens": limit}
        error = problem(client.post("/v1/completions", json=body), 400)
        assert error["code"] == "context_length_exceeded"
        assert "pages, the KV cache has 2" in error["message"]
        client.app.state.service.close()
