"""A child process that compiles every new grammar first.

What it does not finish in time and memory ends the child instead of the server, and is refused.
The child holds the tokenizer, so it lives long; one that was ended is replaced.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from ..data.line_child import LineChild, limit, serve_lines, write_line
from ..errors import RequestError
from .library import Vocabulary, library_matcher, library_tokenizer, problem
from .spec import PARAM

TIMEOUT_S = 1.0
START_TIMEOUT_S = 60.0
KILLED = -9
TOO_COMPLEX = "grammar_too_complex"
MAX_MEMORY_BYTES = 1 << 30
_MAX_ANSWER = 1 << 20


class Probe:
    """Compiles grammars in a child; safe to use from several threads, one at a time runs."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._child: LineChild | None = None

    def start(self) -> None:
        """Have a child with the tokenizer; returns when it is ready."""
        with self._lock:
            self._started()

    def check(self, source: str) -> None:
        """Return when the child has compiled a grammar and computed its first mask; raises
        `RequestError` with the library's reason, or where it did not end in time."""
        with self._lock:
            reply = self._asked(json.dumps(source))
        if reply is None:
            threading.Thread(target=self._replace, daemon=True, name="ling-grammar").start()
            raise RequestError(
                f"the grammar takes more than {TIMEOUT_S:g} s or {MAX_MEMORY_BYTES >> 30} GiB to "
                "compile; make it simpler",
                param=PARAM,
                code=TOO_COMPLEX,
            )
        if "error" in reply:
            raise RequestError(reply["error"], param=PARAM, code="grammar_not_supported")

    def _asked(self, request: str) -> dict[str, Any] | None:
        """The answer; a child that somebody else has killed says nothing about the grammar, so
        another one is asked, once: it may have been the system, for want of memory."""
        for _ in range(2):
            child, begin = self._started(), time.monotonic()
            reply = child.ask(request, TIMEOUT_S)
            if reply is not None:
                return reply
            self._child = None
            if child.process.returncode != KILLED or time.monotonic() - begin >= TIMEOUT_S:
                break
        return None

    def _replace(self) -> None:
        """So that the next grammar does not wait for a child; where none starts, it is told."""
        with contextlib.suppress(RequestError):
            self.start()

    def _started(self) -> LineChild:
        if self._child is None or self._child.process.poll() is not None:
            try:
                child = LineChild(__name__, _MAX_ANSWER)
            except OSError as err:
                raise _unavailable(str(err.strerror)) from None
            v = self._vocabulary
            tokens = [token.decode("latin-1") for token in v.tokens]
            reply = child.ask(json.dumps([tokens, v.special_ids, v.stop_ids]), START_TIMEOUT_S)
            if reply is None:
                raise _unavailable("it did not start")
            self._child = child
        return self._child

    def close(self) -> None:
        """End the child."""
        with self._lock:
            if self._child is not None:
                self._child.end()
                self._child = None


def _unavailable(reason: str) -> RequestError:
    return RequestError(f"the process that compiles grammars failed: {reason}", status=503)


# ---- inside the child --------------------------------------------------------------------------


def main() -> None:
    """Compile grammars until the parent closes the pipe."""
    line = sys.stdin.readline()
    if not line:
        return
    tokens, special, stops = json.loads(line)
    vocabulary = Vocabulary([token.encode("latin-1") for token in tokens], special, stops)
    # Which of its spellings a text takes matters for the forced tokens only.
    tokenizer = library_tokenizer(vocabulary, lambda text: tokenizer.greedy_tokenize(text))
    limit(MAX_MEMORY_BYTES)
    write_line({"ready": True})

    def work(source: Any) -> Mapping[str, str]:
        matcher = library_matcher(tokenizer, source)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some grammars fail here only
        reason = problem(matcher)
        return {} if reason is None else {"error": reason}

    serve_lines(work, TIMEOUT_S)
