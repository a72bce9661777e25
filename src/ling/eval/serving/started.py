"""A server that `ling bench serve --against` starts, waits for and ends."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile

from ...errors import RunError, UsageError
from ...text import one_line, shown
from .client import Client

STOP_TIMEOUT_S = 30.0


class StartedServer:
    """A command in a process group of its own; its output is kept for the line that says why it
    ended."""

    def __init__(self, command: str, url: str | None) -> None:
        """`{port}` in the command becomes a free port, unless `url` says where it will answer.

        Raises `UsageError` for a command that cannot be run.
        """
        if url is None and "{port}" not in command:
            raise UsageError(
                "`against` needs `{port}` where its port goes, or `against_url` with its address"
            )
        port = _free_port()
        self.url = url or f"http://127.0.0.1:{port}"
        try:
            words = shlex.split(command.replace("{port}", str(port)))
        except ValueError as error:
            raise UsageError(f"`against` is {shown(command)}: {error}") from None
        self._command = command
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 closed when the server ends
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, IndexError) as error:
            self._output.close()
            why = getattr(error, "strerror", None) or "no command"
            raise UsageError(f"`against` cannot be started: {shown(command)}: {why}") from None

    async def wait_until_ready(self, client: Client, limit_s: float) -> None:
        """Wait until it answers; raises `RunError` when it ends before, with its last words."""
        await client.wait_until_ready(limit_s, self._check_running)

    def _check_running(self) -> None:
        code = self._process.poll()
        if code is not None:
            raise RunError(
                f"`against` ended with exit code {code} before it was ready: {self._last_line()}"
            )

    def _last_line(self) -> str:
        self._output.seek(max(0, os.fstat(self._output.fileno()).st_size - 4096))
        lines = self._output.read().decode("utf-8", "replace").strip().splitlines()
        return one_line(lines[-1])[:300] if lines else "it printed nothing"

    def stop(self) -> None:
        """End it and what it started, kindly first."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(timeout=STOP_TIMEOUT_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
            break
        self._process.poll()
        self._output.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
