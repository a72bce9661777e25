"""A child process with little memory and little time, for templates that came with a model.

The sandbox keeps a template from reaching code and files, but not from looping or from doubling a
text until memory ends. The child ends instead. It reads one JSON line (first the source, then the
variables of each rendering) and answers each with one JSON line.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Mapping
from typing import Any

from ..errors import TemplateError
from ..text import first_line
from .line_child import LineChild, limit, serve_lines, write_line
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
        self._child: LineChild | None = None
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
        try:
            self._child = LineChild(__name__, _MAX_ANSWER)
        except OSError as err:
            raise TemplateError(f"cannot start the child process for it: {err.strerror}") from None
        self._ask("{}", START_TIMEOUT_S)
        self._ask(json.dumps(self._source), TIMEOUT_S)

    def _ask(self, request: str, timeout_s: float) -> str:
        assert self._child is not None
        reply = self._child.ask(request, timeout_s)
        if reply is None:
            self._child = None
            raise TemplateError(
                f"stopped: it takes more than {timeout_s:g} s, {MAX_MEMORY_BYTES >> 30} GiB "
                f"or {MAX_OUTPUT} characters"
            )
        if "error" in reply:
            raise TemplateError(reply["error"])
        return reply["text"]


# ---- inside the child --------------------------------------------------------------------------


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    _load_late_imports()
    limit(MAX_MEMORY_BYTES)
    write_line({"text": "ready"} if sys.stdin.readline() else {"error": "no request"})
    template = None

    def work(value: Any) -> Mapping[str, str]:
        nonlocal template
        try:
            if template is None:
                template = compile_template(value)
                return {"text": ""}
            return {"text": render_template(template, value)}
        except TemplateError as err:
            return {"error": str(err)}

    serve_lines(work, TIMEOUT_S)


def _load_late_imports() -> None:
    """Have jinja2 import what it imports at first need: the limits forbid opening files."""
    uses = "{% for x in ['\\n'] %}{{ x | tojson ~ strftime_now('%Y') }}{{ x | pprint }}{% endfor %}"
    for source in (uses, "{{ 'a' | wordwrap(2) | urlize }}", "{{ raise_exception(1) }}", "{%"):
        with contextlib.suppress(TemplateError):
            render_template(compile_template(source), {})
