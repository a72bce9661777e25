"""What is decided before a request is read, and the id and log line that each one gets."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from fake_llm import NAME
from fastapi.testclient import TestClient
from http_replies import JSON, PLAIN, problem

from ling.errors import RequestError
from ling.serve.app import create_app
from ling.serve.guard import MAX_HEAD_BYTES, MAX_URL_BYTES, Guard, Rules, host_name


def test_only_plain_json_is_read(client):
    body = json.dumps(PLAIN).encode()
    for headers in ({"Content-Type": "text/plain"}, {}, {**JSON, "Content-Encoding": "gzip"}):
        sent = gzip.compress(body) if "Content-Encoding" in headers else body
        problem(client.post("/v1/completions", content=sent, headers=headers), 415)
    charset = {"Content-Type": "application/json; charset=utf-8"}
    assert client.post("/v1/completions", content=body, headers=charset).status_code == 200


def test_large_body_is_refused_by_its_length_and_by_its_bytes(llm):
    with TestClient(create_app(llm, served_model_name=NAME, max_body_bytes=1000)) as client:
        declared = client.post("/v1/completions", content=b"x" * 1001, headers=JSON)
        chunked = client.post("/v1/completions", content=iter([b"x" * 600] * 2), headers=JSON)
        assert problem(declared, 413)["code"] == "request_too_large"
        assert problem(chunked, 413)["code"] == "request_too_large"
        assert client.post("/v1/completions", json=PLAIN).status_code == 200


@pytest.mark.parametrize("key", ["secret", "schlüssel"])
def test_api_key_guards_everything_but_health(llm, key):
    with TestClient(create_app(llm, served_model_name=NAME, api_key=key)) as client:
        bad = [
            b"",
            b"Bearer",
            b"Bearer wrong",
            b"Basic " + key.encode(),
            b"Bearer \xff\xfe",
            key.encode(),
        ]
        paths = [
            "/v1/models",
            "/openapi.json",
            "/version",
            "/health%2f..%2fv1/models",
            "/x",
        ]
        for path in paths:
            for value in bad:
                reply = client.get(path, headers={"Authorization": value})
                error = problem(reply, 401)
                assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
                assert key not in reply.text
        assert client.get("/health").status_code == 200
        good = {"Authorization": b"bearer " + key.encode()}
        assert client.get("/v1/models", headers=good).status_code == 200


def test_foreign_host_is_refused_when_hosts_are_known(llm):
    app = create_app(llm, served_model_name=NAME, allowed_hosts=frozenset({"127.0.0.1", "::1"}))
    with TestClient(app) as client:
        assert (
            problem(client.get("/health", headers={"Host": "evil.example"}), 403)["code"]
            == "forbidden"
        )
        for host in ("127.0.0.1:8000", "127.0.0.1", "[::1]:8000"):
            assert client.get("/health", headers={"Host": host}).status_code == 200


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

    asyncio.run(Guard(app, Rules(api_key="k"))({"type": "lifespan"}, None, None))
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
        ("[localhost]evil", "localhost"),
    ],
)
def testhost_names_are_read_without_their_port(host, name):
    assert host_name(host) == name


# ---- ids and the log ---------------------------------------------------------------------------


def test_log_has_request_id_and_no_prompt_and_no_forged_line(client, caplog):
    caplog.set_level("INFO", "ling.serve")
    reply = client.post("/v1/completions", json={**PLAIN, "prompt": "private"})
    client.get("/%0d%0aforged%1b[2J")
    lines = [r.getMessage() for r in caplog.records if r.name == "ling.serve"]
    assert reply.headers["x-request-id"] in lines[0]
    assert "private" not in caplog.text
    assert "/%0d%0aforged%1b" in lines[1]
    assert all(line.isprintable() for line in lines)


def test_every_reply_has_its_own_request_id(client):
    ids = {client.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
