"""The program in a model's answer, and the estimate of pass@k."""

from __future__ import annotations

import re
from math import prod

_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S
)
_PYTHON = ("", "py", "python", "python3")
_THOUGHT = "</think>"


def code_of(answer: str, defines: str = "") -> str:
    """The program of a chat answer: the first fenced block of Python that defines the name
    `defines`, or else the last block of Python, or else all of the answer.

    What a model thinks before `</think>` is left out; a block whose end is missing, because the
    answer was cut, goes to the end.
    """
    answer = answer.rpartition(_THOUGHT)[2]
    blocks = [m[3] for m in _FENCE.finditer(answer) if m[2].lower() in _PYTHON]
    if not blocks:
        return answer
    return next((b for b in blocks if defines and is_defined(defines, b)), blocks[-1])


def is_defined(name: str, program: str) -> bool:
    """Whether the text has a function or class of this name that is not inside another."""
    pattern = rf"^(?:async[ \t]+def|def|class)[ \t]+{re.escape(name)}\b"
    return re.search(pattern, program, re.M) is not None


def pass_at_k(count: int, passed: int, k: int) -> float:
    """The unbiased estimate, from `count` answers of which `passed` pass, that one of `k` does.

    Source: Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374.
    """
    if not 0 <= passed <= count or not 1 <= k <= count:
        raise ValueError(f"pass@{k} of {passed} in {count} answers")
    if count - passed < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(count - passed + 1, count + 1))
