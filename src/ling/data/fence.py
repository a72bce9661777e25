"""A child process with little memory and little time, for templates that came with a model.

The sandbox keeps a template from reaching code and files, but not from looping or from doubling a
text until memory ends. The child ends instead. It reads one JSON line (first the source, then the
variables of one rendering, or of all beginnings of a conversation that training asks for) and
answers each with one JSON line.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Template

from ..errors import TemplateError
from ..text import first_line
from .line_child import LineChild, limit, serve_lines, write_line
from .sandbox import MAX_OUTPUT, Cut, compile_template, each_cut, render_template

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
        reply = self._reply(variables, None)
        if "error" in reply:
            raise TemplateError(reply["error"])
        return reply["text"]

    def render_beginnings(
        self, variables: Mapping[str, Any], cuts: Sequence[Cut]
    ) -> list[str | TemplateError]:
        """Texts, or what is wrong, of the first messages of a conversation, for each cut.

        The child gets the conversation once. Raises `TemplateError` where the first cut takes too
        much time or memory.
        """
        try:
            reply = self._reply(variables, cuts)
        except TemplateError:
            if len(cuts) == 1:
                raise
            # Together they may take too long, or be too long.
            found = self.render_beginnings(variables, cuts[:1])
            return found + [self._beginning(variables, cut) for cut in cuts[1:]]
        whole = reply["texts"][0].get("text", "")
        return [_text(r, whole) for r in reply["texts"]]

    def _beginning(self, variables: Mapping[str, Any], cut: Cut) -> str | TemplateError:
        try:
            return self.render_beginnings(variables, [cut])[0]
        except TemplateError as err:
            return err

    def _reply(self, variables: Mapping[str, Any], cuts: Sequence[Cut] | None) -> dict[str, Any]:
        request = {"variables": dict(variables), "cuts": cuts}
        try:
            line = json.dumps(request, ensure_ascii=True)
        except (TypeError, ValueError, RecursionError) as err:
            raise TemplateError(f"messages: {first_line(err)}") from None
        with self._lock:
            if self._child is None:
                self._start()
            return self._ask(line, TIMEOUT_S)

    def _start(self) -> None:
        try:
            self._child = LineChild(__name__, _MAX_ANSWER)
        except OSError as err:
            raise TemplateError(f"cannot start the child process for it: {err.strerror}") from None
        self._ask("{}", START_TIMEOUT_S)
        reply = self._ask(json.dumps(self._source), TIMEOUT_S)
        if "error" in reply:
            raise TemplateError(reply["error"])

    def _ask(self, request: str, timeout_s: float) -> dict[str, Any]:
        assert self._child is not None
        reply = self._child.ask(request, timeout_s)
        if reply is None:
            self._child = None
            raise TemplateError(
                f"stopped: it takes more than {timeout_s:g} s, {MAX_MEMORY_BYTES >> 30} GiB "
                f"or {MAX_OUTPUT} characters"
            )
        return reply


def _text(reply: Mapping[str, Any], whole: str) -> str | TemplateError:
    """A text, which is the beginning of the whole where only its length is given."""
    if "error" in reply:
        return TemplateError(reply["error"])
    return whole[: reply["length"]] if "length" in reply else reply["text"]


# ---- inside the child --------------------------------------------------------------------------


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    _load_late_imports()
    limit(MAX_MEMORY_BYTES)
    write_line({"text": "ready"} if sys.stdin.readline() else {"error": "no request"})
    template = None

    def work(value: Any) -> Mapping[str, Any]:
        nonlocal template
        if template is not None:
            return _rendered(template, value)
        try:
            template = compile_template(value)
        except TemplateError as err:
            return {"error": str(err)}
        return {"text": ""}

    serve_lines(work, TIMEOUT_S)


def _rendered(template: Template, request: dict[str, Any]) -> Mapping[str, Any]:
    """The text of these variables, or the texts of `cuts` of their messages."""
    run, variables = functools.partial(render_template, template), request["variables"]
    if request["cuts"] is not None:
        whole, *others = each_cut(run, variables, request["cuts"])
        return {"texts": [_reply(whole), *(_short_reply(text, whole) for text in others)]}
    try:
        return _reply(run(variables))
    except TemplateError as err:
        return _reply(err)


def _short_reply(text: str | TemplateError, whole: str | TemplateError) -> Mapping[str, Any]:
    """Most texts are beginnings of the whole, which is sent once."""
    if isinstance(text, TemplateError) or isinstance(whole, TemplateError):
        return _reply(text)
    return {"length": len(text)} if whole.startswith(text) else {"text": text}


def _reply(text: str | TemplateError) -> Mapping[str, str]:
    return {"error": str(text)} if isinstance(text, TemplateError) else {"text": text}


def _load_late_imports() -> None:
    """Have jinja2 import what it imports at first need: the limits forbid opening files."""
    uses = "{% for x in ['\\n'] %}{{ x | tojson ~ strftime_now('%Y') }}{{ x | pprint }}{% endfor %}"
    for source in (uses, "{{ 'a' | wordwrap(2) | urlize }}", "{{ raise_exception(1) }}", "{%"):
        with contextlib.suppress(TemplateError):
            render_template(compile_template(source), {})
