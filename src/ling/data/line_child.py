"""A child process that answers each line with one line, bounded in time and memory.

It is for work on untrusted input that a library cannot be trusted to end: the child ends instead.
The lines are JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any


class LineChild:
    """A process that runs the `main` of a module; it ends with this object.

    Raises `OSError` where it cannot be started.
    """

    def __init__(self, module: str, max_answer: int) -> None:
        self._max_answer = max_answer
        # -I keeps the current folder out of the import path; ours is handed over as it is.
        path = json.dumps([p or os.getcwd() for p in sys.path])
        code = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); import {module} as m"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", "-c", f"{code}; m.main()", path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the parent's business
        )
        self.end = weakref.finalize(self, _end, self.process)

    def ask(self, request: str, timeout_s: float) -> dict[str, Any] | None:
        """The answer to one line of JSON; None where there is none in time: the child has ended."""
        answer = b""
        if not self.end.alive:
            return None
        with contextlib.suppress(OSError):  # a dead child gives an empty answer
            answer = self._exchange(request.encode() + b"\n", time.monotonic() + timeout_s)
        if not answer.endswith(b"\n"):
            self.end()
            return None
        return json.loads(answer)

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        """Send one line and read one line, neither beyond `deadline`; b"" where that fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        source, sink = self.process.stdout.fileno(), self.process.stdin.fileno()
        os.set_blocking(sink, False)
        left, answer = memoryview(request), bytearray()
        with selectors.DefaultSelector() as ready:
            ready.register(source, selectors.EVENT_READ)
            ready.register(sink, selectors.EVENT_WRITE)
            while (wait := deadline - time.monotonic()) > 0 and len(answer) <= self._max_answer:
                for key, _ in ready.select(wait):
                    if key.fd == sink:
                        left = left[os.write(sink, left[:65536]) :]
                        if not left:
                            ready.unregister(sink)
                        continue
                    piece = os.read(source, 65536)
                    answer += piece
                    if not piece or piece.endswith(b"\n"):
                        return bytes(answer)
        return b""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


# ---- inside the child --------------------------------------------------------------------------


def serve_lines(work: Callable[[Any], Mapping[str, Any]], timeout_s: float) -> None:
    """Answer lines until the parent closes the pipe; the process ends where one takes longer."""
    while line := sys.stdin.readline():
        _alarm(int(timeout_s) + 1)
        reply = work(json.loads(line))
        _alarm(0)
        write_line(reply)


def write_line(reply: Mapping[str, Any]) -> None:
    """Answer with a line of JSON."""
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def limit(max_memory_bytes: int) -> None:
    """Bound memory; forbid opening files and starting processes."""
    try:
        import resource
    except ImportError:  # not on Windows; the time limit still holds
        return
    limits = {"RLIMIT_AS": max_memory_bytes, "RLIMIT_NOFILE": 3, "RLIMIT_FSIZE": 0}
    for name, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def _alarm(seconds: int) -> None:
    """End this process if the parent is gone and cannot."""
    import signal

    if hasattr(signal, "alarm"):
        signal.alarm(seconds)
