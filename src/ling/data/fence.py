"""A child process with little memory and little time, for templates that came with a model.

The sandbox keeps a template from reaching code and files, but not from looping or from doubling a
text until memory ends. The child ends instead. It reads one JSON line (first the source, then the
variables of each rendering) and answers each with one JSON line.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from ..errors import TemplateError
from ..text import first_line
from .sandbox import MAX_OUTPUT, compile_template, render_template

TIMEOUT_S = 5.0
START_TIMEOUT_S = 30.0
MAX_MEMORY_BYTES = 1 << 30
# A character is at most two `\uXXXX` in JSON.
_MAX_ANSWER = 12 * MAX_OUTPUT + 1024


class FencedTemplate:
    """A template compiled and rendered in a child; a child that fails is replaced."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        with self._lock:
            self._start()

    def render(self, variables: Mapping[str, Any]) -> str:
        """Text of the template; raises `TemplateError` after `TIMEOUT_S` or without memory."""
        try:
            request = json.dumps(variables, ensure_ascii=True)
        except (TypeError, ValueError, RecursionError) as err:
            raise TemplateError(f"messages: {first_line(err)}") from None
        with self._lock:
            if self._child is None:
                self._start()
            return self._ask(request, TIMEOUT_S)

    def _start(self) -> None:
        # -I keeps the current folder out of the import path; ours is handed over as it is.
        path = json.dumps([p or os.getcwd() for p in sys.path])
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import ling.data.fence as f"
        )
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", "-c", f"{code}; f.main()", path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the parent's business
            )
        except OSError as err:
            raise TemplateError(f"cannot start the child process for it: {err.strerror}") from None
        self._child = child
        self._stop = weakref.finalize(self, _end, child)
        self._ask("{}", START_TIMEOUT_S)
        self._ask(json.dumps(self._source), TIMEOUT_S)

    def _ask(self, request: str, timeout_s: float) -> str:
        child = self._child
        assert child is not None
        answer = b""
        with contextlib.suppress(OSError):  # a dead child gives an empty answer
            answer = _exchange(child, request.encode() + b"\n", time.monotonic() + timeout_s)
        if not answer.endswith(b"\n"):
            self._stop()
            self._child = None
            raise TemplateError(
                f"stopped: it takes more than {timeout_s:g} s, {MAX_MEMORY_BYTES >> 30} GiB "
                f"or {MAX_OUTPUT} characters"
            )
        reply = json.loads(answer)
        if "error" in reply:
            raise TemplateError(reply["error"])
        return reply["text"]


def _exchange(child: subprocess.Popen[bytes], request: bytes, deadline: float) -> bytes:
    """Send one line and read one line, neither beyond `deadline`; b"" where the child fails."""
    assert child.stdin is not None
    assert child.stdout is not None
    source, sink = child.stdout.fileno(), child.stdin.fileno()
    os.set_blocking(sink, False)
    left, answer = memoryview(request), bytearray()
    with selectors.DefaultSelector() as ready:
        ready.register(source, selectors.EVENT_READ)
        ready.register(sink, selectors.EVENT_WRITE)
        while (wait := deadline - time.monotonic()) > 0 and len(answer) <= _MAX_ANSWER:
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


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    child.wait()


# ---- inside the child --------------------------------------------------------------------------


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    _load_late_imports()
    _limit()
    _answer({"text": "ready"} if sys.stdin.readline() else {"error": "no request"})
    template = None
    while line := sys.stdin.readline():
        _alarm(int(TIMEOUT_S) + 1)
        try:
            value = json.loads(line)
            if template is None:
                template, text = compile_template(value), ""
            else:
                text = render_template(template, value)
            reply = {"text": text}
        except TemplateError as err:
            reply = {"error": str(err)}
        _alarm(0)
        _answer(reply)


def _load_late_imports() -> None:
    """Have jinja2 import what it imports at first need: the limits forbid opening files."""
    uses = "{% for x in ['\\n'] %}{{ x | tojson ~ strftime_now('%Y') }}{{ x | pprint }}{% endfor %}"
    for source in (uses, "{{ 'a' | wordwrap(2) | urlize }}", "{{ raise_exception(1) }}", "{%"):
        with contextlib.suppress(TemplateError):
            render_template(compile_template(source), {})


def _answer(reply: Mapping[str, str]) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def _limit() -> None:
    """Bound memory; forbid opening files and starting processes."""
    try:
        import resource
    except ImportError:  # not on Windows; the time limit still holds
        return
    limits = {"RLIMIT_AS": MAX_MEMORY_BYTES, "RLIMIT_NOFILE": 3, "RLIMIT_FSIZE": 0}
    for name, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def _alarm(seconds: int) -> None:
    """End this process if the parent is gone and cannot."""
    import signal

    if hasattr(signal, "alarm"):
        signal.alarm(seconds)
