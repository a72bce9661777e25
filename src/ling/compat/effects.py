"""Which variables a command sets to what only running it would tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNED = re.compile(
    r"([A-Za-z_]\w*)(?:\[[^\]]*\])?\s*(?:(?:<<|>>|[-+*/%&|^])?=(?!=)|\+\+|--)"
    r"|(?:\+\+|--)\s*([A-Za-z_]\w*)"
)
_POSITIONAL = tuple("@*#123456789")


def names_in_arithmetic(text: str) -> list[str]:
    """Variables that an arithmetic expression assigns to, as `G` in `G = G * 2` and `G++`."""
    return [first or second for first, second in _ASSIGNED.findall(text)]


def names_set(command: str, words: Sequence[str]) -> list[str]:
    """Variables that a command of the shell sets apart from `NAME=`; `words` are behind it."""
    match command:
        case "let":
            return [name for word in words for name in names_in_arithmetic(word)]
        case "printf":
            return [name for flag, name in pairwise(words) if flag == "-v"][:1]
        case "read" | "mapfile" | "readarray" | "getopts":
            names = [word for word in words if _NAME.fullmatch(word)]
            return names or ["REPLY" if command == "read" else "MAPFILE"]
        case "set":
            return list(_POSITIONAL) if "--" in words else []
        case "shift":
            return list(_POSITIONAL)
    return []
