"""The process of an answer: runs its program, and its functions when a checker calls them."""

from __future__ import annotations

import json
import os
import socket
import sys
import types
from typing import Any

from .wire import Wire

_PAYLOAD, _CONNECTION = 3, 4


def main() -> None:
    """Run the program of the payload; where there is a connection, serve its names to it."""
    with open(_PAYLOAD, encoding="utf-8") as file:
        payload = json.loads(file.read())
    os.environ.clear()
    sys.argv[:] = ["answer.py"]
    sys.path[:] = [p for p in sys.path if p]
    if payload["serves"]:
        _serve(payload["program"])
    else:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(payload["program"], "answer.py", "exec"), module.__dict__)


def _serve(program: str) -> None:
    """As a module that is not `__main__`, so that no main part runs. A program that fails has no
    names: its error is raised by each."""
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    error: BaseException | None = None
    try:
        exec(compile(program, "answer.py", "exec"), module.__dict__)
    except BaseException as err:  # also `SystemExit`
        error = err

    def find(name: str) -> Any:
        if error is not None:
            raise error
        if name not in module.__dict__:
            raise NameError(f"name '{name}' is not defined")
        return module.__dict__[name]

    Wire(socket.socket(fileno=_CONNECTION), find).serve()
