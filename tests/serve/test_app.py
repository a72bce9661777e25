"""A server in a process of its own: the official client, disconnects, signals, bad addresses."""

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import time

import openai
import pytest
from fake_llm import NAME, SCRIPT, wait_until
from server_process import Server, running

from ling.config.engine import ServeConfig
from ling.errors import UsageError
from ling.serve.app import allowed_hosts, serve
from ling.serve.sockets import listen


@pytest.fixture(scope="module")
def server():
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def slow():
    with running(script="x" * 3000, step_s=0.01) as server:
        yield server


def client_of(server: Server, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, **options)


def ask(server: Server, **fields):
    body = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], **fields}
    return client_of(server).chat.completions.create(**body)


def test_official_client_reads_both_endpoints(server):
    client = client_of(server)
    assert [m.id for m in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    reply = ask(server, logprobs=True, top_logprobs=2)
    assert reply.choices[0].message.content == SCRIPT
    assert reply.choices[0].finish_reason == "stop"
    assert len(reply.choices[0].logprobs.content) == reply.usage.completion_tokens
    plain = client.completions.create(model=NAME, prompt="a", max_tokens=2, echo=True, logprobs=1)
    assert plain.choices[0].text == "aGr"
    assert plain.choices[0].logprobs.token_logprobs[0] is None


def test_official_client_streams_both_endpoints(server):
    events = list(ask(server, stream=True, stream_options={"include_usage": True}))
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == SCRIPT
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-2].choices[0].finish_reason == "stop"
    assert events[-1].usage.completion_tokens == len(SCRIPT.encode())
    plain = client_of(server).completions.create(model=NAME, prompt="a", max_tokens=99, stream=True)
    assert "".join(e.choices[0].text for e in plain) == SCRIPT


def test_official_client_raises_its_own_error_types(server):
    with pytest.raises(openai.BadRequestError) as bad:
        ask(server, temperature=9)
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as missing:
        ask(server, model="other")
    assert missing.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_frees_its_request(slow, stream):
    body = {"model": NAME, "prompt": "a", "max_tokens": 3000, "stream": stream, "n": 2}
    connection = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=5)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    if stream:
        assert connection.getresponse().read(20)
    wait_until(lambda: slow.counts()["open"] == 2)
    assert slow.get("/health")[0] == 200  # the loop is free while it generates
    connection.sock.close()
    connection.close()
    wait_until(lambda: slow.counts() == {**slow.counts(), "open": 0, "busy": False})
    assert slow.counts()["steps"] < 3000


def test_sigterm_lets_streams_end_refuses_new_ones_and_exits_0():
    with running(script="x" * 60, step_s=0.02) as server:
        stream = iter(ask(server, stream=True))
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health")[0] == 503)
        with pytest.raises(openai.InternalServerError) as refused:
            ask(server)
        assert refused.value.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) > 0
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason == "stop"
        assert sum(len(e.choices[0].delta.content or "") for e in rest) == 60
        out, err = server.process.communicate(timeout=10)
        assert (server.process.returncode, out, err) == (0, "", "")


def test_drain_limit_ends_a_stream_with_an_error_and_done():
    with running(script="x" * 3000, step_s=0.01, drain_s=0.3) as server:
        body = {"model": NAME, "prompt": "a", "max_tokens": 3000, "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        reply = connection.getresponse()
        server.process.send_signal(signal.SIGTERM)
        events = [e for e in reply.read().decode().split("\n\n") if e]
        assert json.loads(events[-2][6:])["error"]["type"] == "server_error"
        assert events[-1] == "data: [DONE]"
        assert server.process.wait(10) == 0


def test_second_signal_ends_at_once():
    with running(script="x" * 3000, step_s=0.01) as server:
        next(iter(ask(server, stream=True)))
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health")[0] == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - start < 3


def test_health_is_503_while_loading_and_signal_ends_it():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with running(load_s=60, wait=False, port=port) as server:

        def loading() -> bool:
            with contextlib.suppress(OSError):
                return server.get("/health")[0] == 503
            return False

        wait_until(loading, 10)
        assert server.end() == (128 + signal.SIGTERM, "", "")


def test_model_that_cannot_load_ends_the_process_with_one_line():
    with running(model="broken", wait=False) as server:
        out, err = server.process.communicate(timeout=10)
        assert (server.process.returncode, out) == (2, "")
        assert err == "error: broken: no config.json\n"


def test_key_comes_from_the_environment():
    with running(env={"LING_API_KEY": "secret"}) as server:
        assert server.get("/v1/models")[0] == 401
        client = openai.OpenAI(base_url=server.url, api_key="secret")
        assert [m.id for m in client.models.list()] == [NAME]
        code, out, err = server.end(signal.SIGINT)
        assert (code, out, err) == (0, "", "")


def test_foreign_host_header_is_refused_by_default(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", "/health", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 403


def test_two_lengths_close_the_connection(server):
    request = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_bad_addresses_are_refused_before_the_model_is_touched():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}: Address already in use"):
            serve("no such model", ServeConfig(port=port))
    with pytest.raises(UsageError, match="cannot listen on 2001:db8::1 port 0"):  # as in a URL
        serve("no such model", ServeConfig(host="[2001:db8::1]", port=0))
    for host in ("nowhere.invalid", "", "192.0.2.1", "a" * 300, "bad\x00host"):
        with pytest.raises(UsageError):
            serve("no such model", ServeConfig(host=host, port=0))
    for port in (-1, 65536):
        with pytest.raises(UsageError, match="0 to 65535"):
            serve("no such model", ServeConfig(port=port))


def test_open_address_needs_a_key_and_bad_keys_are_refused():
    with pytest.raises(UsageError, match="api_key_file="):
        serve("no such model", ServeConfig(host="0.0.0.0", port=0))
    for key in ("", " ", "a\nb", "a "):
        with pytest.raises(UsageError, match="API key"):
            serve("no such model", ServeConfig(port=0, api_key=key))


@pytest.mark.parametrize(
    ("options", "open_to_pages", "wanted"),
    [
        ({}, True, {"localhost", "127.0.0.1", "::1"}),
        ({}, False, None),
        ({"allowed_host": ["My.box:80"]}, True, {"localhost", "127.0.0.1", "::1", "my.box"}),
        ({"allowed_host": ["my.box"]}, False, {"localhost", "127.0.0.1", "::1", "my.box"}),
        ({"allowed_host": ["a", "*"]}, True, None),
    ],
)
def test_hosts_that_are_answered(options, open_to_pages, wanted):
    assert allowed_hosts(ServeConfig(**options), open_to_pages=open_to_pages) == wanted


def test_unknown_log_level_is_refused_before_anything_is_opened():
    with pytest.raises(UsageError, match="`log_level` is `loud`"):
        serve("nowhere", ServeConfig(log_level="loud"))


def test_a_token_is_sent_when_it_is_there():
    """Without TCP_NODELAY it waits until the client acknowledges the one before, up to 40 ms on a
    connection that has been used."""

    async def no_delay() -> int:
        seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def connected(reader, writer):
            sock = writer.get_extra_info("socket")
            seen.set_result(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen("127.0.0.1", 0)
        address = listener.getsockname()
        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*address)
            found = await seen
            writer.close()
        return found

    assert asyncio.run(no_delay()) == 1


def test_a_client_that_reads_nothing_does_not_hold_up_the_end():
    with running(script="x" * 3000, drain_s=60) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        messages = [{"role": "user", "content": "hi"}]
        fields = {"messages": messages, "stream": True, "logprobs": True, "top_logprobs": 20}
        body = json.dumps({"model": NAME, "max_tokens": 3000, **fields})
        head = "POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json"
        connection.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        wait_until(lambda: server.counts()["steps"] == 3000, 30)
        time.sleep(0.5)
        assert server.counts()["busy"]  # all is written, and nobody reads it
        start = time.monotonic()
        assert server.end()[0] == 0
        assert time.monotonic() - start < 8


def test_a_dead_engine_ends_the_process_with_one_line():
    with running() as server:
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.get("/die")
            assert server.get("/health")[0] == 503
        out, err = server.process.communicate(timeout=10)
        assert (server.process.returncode, out) == (1, "")
        assert err == "error: the engine has failed too often: no more steps\n"


def test_the_port_is_free_after_the_end():
    with running(metrics_port=0) as server:
        server.end()
        with socket.create_server(("127.0.0.1", server.port)):
            pass
