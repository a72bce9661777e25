"""What a model may call in `ling chat`, and which of it runs on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..text import nearest, shown
from ..tools import BUILTIN, builtin, failed, run
from ..tools.files import Tools, read_tools


def choose_tools(text: str) -> Tools | None:
    """What `--tools` and `/tools` say: `off`, names of built-in tools, or a file with a JSON list
    of tools in OpenAI's form. Raises `UsageError`."""
    if text == "off":
        return None
    names = [name.strip() for name in text.split(",")]
    if any(name in BUILTIN for name in names):
        return [_named(name).definition for name in dict.fromkeys(names)]
    path = Path(os.path.expanduser(text))  # `os.path` has no errors, as for `~nobody`
    if not os.path.exists(path) and not path.suffix and "/" not in text:
        _named(names[0])
    return read_tools(path)


def _named(name: str) -> Any:
    if name not in BUILTIN:
        raise UsageError(
            f"there is no built-in tool {shown(name)}{nearest(name, list(BUILTIN))}: expected "
            f"{', '.join(BUILTIN)}, a file with a JSON list of tools, or off"
        )
    return BUILTIN[name]


def result_of(call: dict[str, Any], tools: Tools | None) -> str | None:
    """What a call gives, where the tool that it names is a built-in one, or was not offered; None
    for the others. A server may have tools of its own, so None where nothing was offered, too."""
    name, arguments = (call["function"][key] for key in ("name", "arguments"))
    if not tools:
        return None
    for definition in tools:
        if definition["function"]["name"] == name:
            tool = builtin(definition)
            return None if tool is None else run(tool, arguments)
    return failed(f"there is no tool {name[:40]}")
