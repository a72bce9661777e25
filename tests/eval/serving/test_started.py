from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path

import pytest
from openai_stand_in import NAME

from ling.errors import RunError, UsageError
from ling.eval.serving.client import Client, Unreachable
from ling.eval.serving.started import StartedServer
from ling.ops.processes import usage

HELPER = Path(__file__).parents[2] / "helpers" / "openai_stand_in.py"
PYTHON = shlex.quote(sys.executable)


def wait(server: StartedServer, limit_s: float = 10.0) -> list[str]:
    async def work():
        client = Client(server.url)
        await server.wait_until_ready(client, limit_s)
        return await client.models()

    return asyncio.run(work())


def test_it_answers_at_its_port_and_is_gone_after_its_end():
    server = StartedServer(f"{PYTHON} {HELPER} {{port}} loading", None)
    pid = server._process.pid
    try:
        assert wait(server) == [NAME]
    finally:
        server.stop()
    assert usage(pid) is None
    with pytest.raises(Unreachable):
        asyncio.run(Client(server.url).models())


def test_what_it_started_ends_with_it():
    server = StartedServer(f"sh -c '{PYTHON} {HELPER} {{port}}; true'", None)
    try:
        assert wait(server) == [NAME]
    finally:
        server.stop()
    with pytest.raises(Unreachable):
        asyncio.run(Client(server.url).models())


def test_a_command_that_fails_says_its_last_words():
    code = "import sys; print('loading'); print('model.gguf: no such file'); sys.exit(4)"
    server = StartedServer(f"{PYTHON} -c {shlex.quote(code)} {{port}}", None)
    with pytest.raises(RunError, match=r"exit code 4 before it was ready: model\.gguf: no such"):
        wait(server)
    server.stop()


def test_a_command_that_never_answers_is_given_up():
    server = StartedServer(f"{PYTHON} -c 'import time; time.sleep(60)' {{port}}", None)
    with pytest.raises(RunError, match=r"waited 0.3 s"):
        wait(server, 0.3)
    server.stop()


@pytest.mark.parametrize(
    ("command", "url", "message"),
    [
        ("llama-server", None, "needs `{port}`"),
        ("/absent/server --port {port}", None, "No such file"),
        ("sh -c 'open {port}", None, "No closing quotation"),
        ("", "http://127.0.0.1:1", "no command"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused(command, url, message):
    with pytest.raises(UsageError, match=message):
        StartedServer(command, url)
