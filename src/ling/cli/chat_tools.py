"""What a model may call in `ling chat`, and which of it runs on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.guarded import loads, read_regular
from ..text import nearest, printable, shown
from ..tools import BUILTIN, builtin, run

MODEL_FILE = "tools.json"
"""Beside a model's weights: the tools that it was trained to call, which a chat then offers."""
MAX_BYTES = 4 << 20
Tools = list[dict[str, Any]]


def choose_tools(text: str) -> Tools | None:
    """What `--tools` and `/tools` say: `off`, names of built-in tools, or a file with a JSON list
    of tools in OpenAI's form. Raises `UsageError`."""
    if text == "off":
        return None
    names = [name.strip() for name in text.split(",")]
    if any(name in BUILTIN for name in names):
        return [_named(name).definition for name in dict.fromkeys(names)]
    path = Path(os.path.expanduser(text))  # which has no error for `~nobody`
    if not path.exists() and not path.suffix and "/" not in text:
        _named(names[0])
    return read_tools(path)


def _named(name: str) -> Any:
    if name not in BUILTIN:
        raise UsageError(
            f"there is no built-in tool {shown(name)}{nearest(name, list(BUILTIN))}: expected "
            f"{', '.join(BUILTIN)}, a file with a JSON list of tools, or off"
        )
    return BUILTIN[name]


def tools_of_model(folder: Path) -> Tools | None:
    """The tools that a model's folder offers; None without any. Raises `UsageError`."""
    path = folder / MODEL_FILE
    return read_tools(path) if path.is_file() else None


def read_tools(path: Path) -> Tools:
    """Tools in OpenAI's form; raises `UsageError`."""
    name = f"`{printable(str(path))}`"
    try:
        tools = loads(read_regular(path, MAX_BYTES))
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{name} is not JSON: {error}") from None
    try:
        named = [isinstance(tool["function"]["name"], str) for tool in tools]
    except (TypeError, LookupError):
        named = [False]
    if not isinstance(tools, list) or not all(named):
        form = '[{"type": "function", "function": {"name": ..., "parameters": {...}}}, ...]'
        raise UsageError(f"{name} is no list of tools: {form}")
    return tools


def result_of(call: dict[str, Any], tools: Tools | None) -> str | None:
    """What a call gives, where the tool that it names is a built-in one; None for others, and for
    what was not offered."""
    function = call["function"]
    for definition in tools or ():
        if definition["function"]["name"] == function["name"]:
            tool = builtin(definition)
            return None if tool is None else run(tool, function["arguments"])
    return None
