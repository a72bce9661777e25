"""What is decided before a request is read, and the id and log line that each one gets."""

from __future__ import annotations

import asyncio

import pytest

from ling.errors import RequestError
from ling.serve.guard import MAX_HEAD_BYTES, MAX_URL_BYTES, Guard, Rules, host_name
from ling.serve.keys import Keys

# ---- the middleware alone ----------------------------------------------------------------------


class App:
    """Keeps what comes through the guard, and answers 200 or fails."""

    def __init__(self, error=None, after_start=False):
        self.bodies, self.error, self.after_start = [], error, after_start

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.bodies.append((message["body"], message["more_body"]))
        if self.error is not None and not self.after_start:
            raise self.error
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.body", "body": b"ok"})


def ask(app, messages=({"type": "http.request", "body": b""},), rules=None, **scope):
    """The events that the guard sends; `messages` are what the connection receives."""
    sent, waiting = [], iter(messages)

    async def receive():
        return next(waiting)

    async def send(message):
        sent.append(message)

    whole = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        **scope,
    }
    asyncio.run(Guard(app, rules or Rules())(whole, receive, send))
    return sent


POST = {"method": "POST", "headers": [(b"content-type", b"application/json")]}


def test_a_body_in_pieces_comes_through_in_one():
    app = App()
    pieces = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "more_body": True},
        {"type": "http.request", "body": b"cd", "more_body": False},
    ]
    sent = ask(app, pieces, Rules(max_body_bytes=4), **POST)
    assert app.bodies == [(b"abcd", False)]
    assert sent[0]["status"] == 200


def test_a_body_is_not_read_beyond_its_limit():
    read = []

    def endless():
        for n in range(100):
            read.append(n)
            yield {"type": "http.request", "body": b"xx", "more_body": True}

    app = App()
    sent = ask(app, endless(), Rules(max_body_bytes=7), **POST)
    assert (sent[0]["status"], app.bodies, len(read)) == (413, [], 4)
    declared = {**POST, "headers": [*POST["headers"], (b"content-length", b"8")]}
    sent = ask(app, endless(), Rules(max_body_bytes=7), **declared)
    assert (sent[0]["status"], app.bodies, len(read)) == (413, [], 4)


def test_a_client_that_leaves_is_no_request():
    app = App()
    sent = ask(app, [{"type": "http.disconnect"}], **POST)
    assert (sent[0]["status"], app.bodies) == (400, [])


def test_urls_and_heads_have_their_limits():
    def status(url, header):
        headers = [(b"x", b"y" * (header - 1))] if header else []
        return ask(App(), raw_path=b"/" * url, headers=headers)[0]["status"]

    assert status(MAX_URL_BYTES, 0) == 200
    assert status(MAX_URL_BYTES + 1, 0) == 414
    assert status(1, MAX_HEAD_BYTES - 1) == 200
    assert status(1, MAX_HEAD_BYTES) == 431


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"http_version": "2"}, 400),
        ({"http_version": "1.0"}, 200),
        ({"headers": [(b"content-length", b"0"), (b"transfer-encoding", b"chunked")]}, 400),
        ({"method": "POST"}, 415),
        ({"method": "PUT", "headers": [(b"content-type", b"text/json")]}, 415),
        ({"method": "PATCH", "headers": [(b"content-type", b"APPLICATION/JSON ;a=b")]}, 200),
        ({"method": "POST", "headers": [*POST["headers"], (b"content-encoding", b"br")]}, 415),
        (
            {"method": "POST", "headers": [*POST["headers"], (b"content-encoding", b"Identity")]},
            200,
        ),
        ({"method": "DELETE"}, 200),
    ],
)
def test_heads_are_judged_one_by_one(scope, status):
    app = App()
    sent = ask(app, **scope)
    assert sent[0]["status"] == status
    assert len(app.bodies) == (status == 200)
    if status != 200:  # what is left of the body is unread
        assert (b"connection", b"close") in sent[0]["headers"]


def test_a_host_is_judged_where_one_was_sent():
    """The health check of a load balancer is HTTP/1.0 without `Host`; a web page sends its own."""

    def status(*headers):
        return ask(App(), rules=Rules(hosts=frozenset({"localhost"})), headers=headers)[0]["status"]

    assert status() == 200
    assert status((b"host", b"localhost:8000")) == status((b"host", b"localhost.")) == 200
    assert status((b"host", b"")) == status((b"host", b"evil.example")) == 403


def test_a_failure_before_the_reply_is_a_reply_and_one_after_cuts_it_off():
    sent = ask(App(RuntimeError("secret")))
    assert sent[0]["status"] == 500
    assert b"secret" not in sent[1]["body"]
    assert ask(App(RequestError("no", status=409)))[0]["status"] == 409
    with pytest.raises(RuntimeError, match="secret"):
        ask(App(RuntimeError("secret"), after_start=True))


def test_what_is_not_http_passes():
    passed = []

    async def app(scope, receive, send):
        passed.append(scope["type"])

    asyncio.run(Guard(app, Rules(keys=Keys(["k"])))({"type": "lifespan"}, None, None))
    assert passed == ["lifespan"]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Localhost:8000", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("", ""),
        ("localhost.evil:1", "localhost.evil"),
        ("localhost.:1", "localhost"),
        ("[localhost]evil", "localhost"),
    ],
)
def test_host_names_are_read_without_their_port(host, name):
    assert host_name(host) == name


# ---- ids and the log ---------------------------------------------------------------------------
