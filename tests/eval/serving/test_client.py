from __future__ import annotations

import asyncio

import pytest
from openai_stand_in import NAME, OpenAIStandIn

from ling.errors import RunError, UsageError
from ling.eval.serving.client import Client, Unreachable

BODY = {"model": NAME, "prompt": [1, 2, 3], "max_tokens": 4}


def with_client(url: str, work, **options):
    return asyncio.run(work(Client(url, **options)))


def ask(url: str, **options):
    return with_client(url, lambda c: c.ask("/completions", BODY), **options)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_the_models_are_found_with_and_without_the_version_in_the_url(path):
    with OpenAIStandIn() as server:
        assert with_client(server.url + path, lambda c: c.models()) == [NAME]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "http://", "http://a:b:c", "x y"])
def test_what_is_no_url_of_a_server_is_refused(url):
    with pytest.raises(UsageError, match="no URL of a server"):
        Client(url)


def test_a_server_that_is_not_there_is_said_to_be():
    with OpenAIStandIn() as server:
        url = server.url
    for work in (lambda c: c.models(), lambda c: c.ask("/completions", BODY)):
        with pytest.raises(Unreachable, match=f"{url}: no server answers there"):
            with_client(url, work)


def test_a_refused_key_and_a_wrong_url_are_told_apart():
    with OpenAIStandIn("unauthorized") as server:
        with pytest.raises(UsageError, match=r"HTTP 401, the key is refused; give `api_key=KEY`"):
            with_client(server.url, lambda c: c.models())
        assert with_client(server.url, lambda c: c.models(), api_key="secret") == [NAME]
    with (
        OpenAIStandIn("not-openai") as server,
        pytest.raises(UsageError, match=r"HTTP 404 and no list of models; is it the URL"),
    ):
        with_client(server.url, lambda c: c.models())


def test_an_answer_is_read_with_its_times():
    with OpenAIStandIn(token_s=0.01) as server:
        reply = ask(server.url)
    assert (reply.fault, reply.tokens, reply.prompt_tokens, reply.cached_tokens) == (None, 4, 3, 7)
    assert reply.text == " w0 w1 w2 w3"
    assert 0.01 <= reply.first_token_s < reply.end_s - reply.sent_s
    assert len(reply.gaps_s) == 3
    assert sum(reply.gaps_s) > 0.02


@pytest.mark.parametrize(
    ("mode", "fault", "detail"),
    [
        ("busy", "HTTP 429", "too many requests"),
        ("error", "error event", "scores are not finite"),
        ("short", "fewer tokens than asked", "2 of 4"),
        ("cut", "connection lost", "peer closed connection"),
        ("hang", "no answer within 0.3 s", ""),
    ],
)
def test_a_wrong_answer_is_a_fault_of_the_reply(mode, fault, detail):
    with OpenAIStandIn(mode) as server:
        reply = ask(server.url, timeout_s=0.3)
    assert reply.fault == fault
    assert detail in reply.detail
    assert reply.end_s > reply.sent_s


def test_a_server_that_lists_its_model_before_it_is_loaded_is_waited_for():
    with OpenAIStandIn("loading") as server:
        with_client(server.url, lambda c: c.wait_until_ready(5.0, lambda: None))
        assert with_client(server.url, lambda c: c.status("/health")) == 200


def test_waiting_ends():
    with OpenAIStandIn() as server:
        url = server.url
    with pytest.raises(RunError, match=r"no server answers there .*; waited 0.2 s"):
        with_client(url, lambda c: c.wait_until_ready(0.2, lambda: None))


def test_a_request_that_fails_took_forever():
    with OpenAIStandIn() as server:
        assert 0 < with_client(server.url, lambda c: c.seconds("GET", "/health")) < 5
    assert with_client(server.url, lambda c: c.seconds("GET", "/health")) == float("inf")


CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def test_events_come_one_by_one_and_a_client_may_leave():
    with OpenAIStandIn(token_s=0.01) as server:
        events = Client(server.url).events("/chat/completions", CHAT)
        texts = [e["choices"][0]["delta"]["content"] for e in events if e["choices"]]
        assert texts == ["", " w0", " w1", " w2", " w3"]
        left = Client(server.url).events("/chat/completions", {**CHAT, "max_tokens": 500})
        next(left)
        left.close()
        assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("busy", "HTTP 429: too many requests"),
        ("error", "the server says: scores are not finite"),
        ("cut", "the connection broke"),
    ],
)
def test_a_stream_that_fails_is_an_error(mode, words):
    with OpenAIStandIn(mode) as server, pytest.raises(RunError, match=words):
        list(Client(server.url).events("/chat/completions", CHAT))
