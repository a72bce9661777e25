"""The process of a checker: runs a problem's tests, and asks the answer's process for results.

The answer cannot reach this process: it is in another cell, and only plain values come from it.
That the tests ended well is written on a file that the answer's process does not have.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from types import CodeType
from typing import Any, NoReturn

from .wire import GoneError, Wire, message

_PAYLOAD, _CONNECTION, _RESULT = 3, 4, 5


def main() -> None:
    """Run the payload's `setup` and `test`, where each of `names` is the answer's."""
    with open(_PAYLOAD, encoding="utf-8") as file:
        payload = json.loads(file.read())
    sys.path[:] = [p for p in sys.path if p]
    wire = Wire(socket.socket(fileno=_CONNECTION))
    space: dict[str, Any] = {"__name__": "test"}
    try:
        if payload["setup"]:
            exec(compile(payload["setup"], "setup.py", "exec"), space)
        code = compile(payload["test"], "test.py", "exec")
        for name in payload["names"]:
            space[name] = wire.name(name)
        _import_missing(code, space)
        exec(code, space)
    except GoneError:
        _end(False, "the answer's process ended before the tests did")
    except AssertionError as err:
        _end(False, f"{_failed_line(err, payload['test'])} {err}")
    except BaseException as err:  # also `SystemExit`: the tests did not end
        _end(False, message(err))
    _end(True, "")


def _failed_line(error: AssertionError, test: str) -> str:
    """The line of the tests that did not hold."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == "test.py"]
    lines = test.splitlines()
    return lines[(frames[-1].lineno or 1) - 1].strip()[:200] if frames else "AssertionError"


def _end(passed: bool, why: str) -> NoReturn:
    os.write(_RESULT, json.dumps({"passed": passed, "why": why}).encode())
    os._exit(0)


_USUAL = {
    *("bisect", "cmath", "collections", "copy", "datetime", "functools", "heapq", "itertools"),
    *("math", "operator", "random", "re", "string", "sys"),
}


def _import_missing(code: CodeType, space: dict[str, Any]) -> None:
    """Modules that tests use and leave to the answer to import: theirs must not be the answer's."""
    for name in _names(code) & _USUAL:
        if name not in space:
            space[name] = __import__(name)


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))
