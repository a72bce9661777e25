"""Files that list tools: one that a user gives, and the `tools.json` beside a model's weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.atomic import write_atomic
from ..files.guarded import loads, read_regular
from ..text import printable
from .builtin import BUILTIN

FILE = "tools.json"
"""In a model's folder: what the model was trained to call, which a chat then offers."""
MAX_BYTES = 4 << 20
Tools = list[dict[str, Any]]


def tools_of_model(folder: Path) -> Tools | None:
    """The tools that a model's folder offers; None without any. Raises `UsageError`."""
    path = folder / FILE
    return read_tools(path) if path.is_file() else None


def write_tools(folder: Path, tools: Sequence[dict[str, Any]] | None = None) -> None:
    """Let a model's folder offer tools in OpenAI's form, by default all built-in ones."""
    offered = [tool.definition for tool in BUILTIN.values()] if tools is None else list(tools)
    write_atomic(folder / FILE, json.dumps(offered, indent=1, ensure_ascii=False) + "\n")


def read_tools(path: Path) -> Tools:
    """Tools in OpenAI's form; raises `UsageError`."""
    name = f"`{printable(str(path))}`"
    try:
        tools = loads(read_regular(path, MAX_BYTES))
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    try:
        named = [isinstance(tool["function"]["name"], str) for tool in tools]
    except (TypeError, LookupError):
        named = [False]
    if not isinstance(tools, list) or not all(named):
        form = '[{"type": "function", "function": {"name": ..., "parameters": {...}}}, ...]'
        raise UsageError(f"{name} is no list of tools: {form}")
    return tools
