"""The answer in a model's words, and whether it is right."""

from __future__ import annotations

import ast
import re
from fractions import Fraction

_BRACE = re.compile(r"[{}]")
_BOX = re.compile(r"\\boxed\s*\{")
# Of spaces only those before and behind the colon repeat: models may write thousands of them.
_SAID = re.compile(r"answer(?:\s+is\b|\s*:)\s*(?::\s*)?(\S.*)", re.IGNORECASE)
_DIGITS = re.compile(
    r"[-+−]?\s*(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|[-+−]?\.\d+"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_PLAIN = re.compile(r"([-+]?)(\d+(?:\.\d+)?|\.\d+)(?:/(\d+))?(%?)")
_ESCAPED = re.compile(r"\\([{}_#%&$])")  # as LaTeX writes them
_LONGEST_VALUE = 100_000
_DECORATION = re.compile(r"\\(?:left|right|!|,|;|:|text|mathrm|mathbf)|[$\s]")


def extracted(text: str, pattern: str = "") -> str:
    """The answer in a text: what `pattern` finds last, or else the last `\\boxed{...}`, what is
    said behind "answer is" or "Answer:", or the last line. Empty where there is none."""
    if pattern:
        found = list(re.finditer(pattern, text))
        return (found[-1][1 if found[-1].re.groups else 0] or "").strip() if found else ""
    if (boxed := _boxed(text)) is not None:
        return boxed
    said = _SAID.findall(text)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    last = said[-1] if said else lines[-1] if lines else ""
    return last.strip().rstrip(".").strip("*` ").strip()


def _boxed(text: str) -> str | None:
    """What is in the last `\\boxed{...}`, whose braces may be nested."""
    starts = {m.end() - 1 for m in _BOX.finditer(text)}
    opened, last = list[int](), (-1, -1)
    for brace in _BRACE.finditer(text):  # each once: models may repeat themselves without end
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened and (start := opened.pop()) in starts:
            last = max(last, (start, brace.start()))
    return text[last[0] + 1 : last[1]].strip() if last[0] >= 0 else None


def number_of(text: str) -> Fraction | None:
    """The number that a text is: whole, decimal, with commas, a fraction (also LaTeX's), percent;
    None for anything else."""
    plain = _FRACTION.sub(r"\1/\2", text)
    if re.search(r"\d\s+(?!\d{3}(?!\d))\d", plain):  # two numbers, or "1 1/2"
        return None
    plain = _DECORATION.sub("", plain).replace("−", "-")
    plain = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", plain).replace("\\%", "%").strip("{}")
    found = _PLAIN.fullmatch(plain) if len(plain) <= 100 else None
    if found is None:
        return None
    sign, digits, divisor, percent = found.groups()
    if divisor is not None and not int(divisor):
        return None
    value = Fraction(digits) / int(divisor or 1) / (100 if percent else 1)
    return -value if sign == "-" else value


def last_number(text: str) -> Fraction | None:
    """The number that a text is, or the last one in it."""
    whole = number_of(text)
    if whole is not None:
        return whole
    found = _DIGITS.findall(_FRACTION.sub(r"\1/\2", text))
    return number_of(found[-1]) if found else None


def same_number(said: str, wanted: str) -> bool:
    """Whether the number in `said` is the one that `wanted` is."""
    number = last_number(said)
    return number is not None and number == number_of(wanted)


def same_text(said: str, wanted: str) -> bool:
    """Whether two texts are one but for case, spaces, LaTeX's decoration and a full stop; numbers
    are compared as such."""
    a, b = number_of(said), number_of(wanted)
    if a is not None and b is not None:
        return a == b
    # Where nothing is left, as of `{}`, what was left out is all that tells them apart.
    return (_bare(said) or said.strip()) == (_bare(wanted) or wanted.strip()) and bool(said)


def same_value(said: str, wanted: str) -> bool:
    """Whether two texts are values of Python that are equal, such as `[1, 2]` and `[1,2]`; nothing
    is run. What is no such value is right where it is the same text."""
    if said == wanted:
        return True
    found, value = _value(_ESCAPED.sub(r"\1", said)), _value(wanted)
    return found is not None and value is not None and found[0] == value[0]


def _value(text: str) -> tuple[object] | None:
    """The value that a literal of Python is, in a tuple; None for any other text."""
    if len(text) > _LONGEST_VALUE:
        return None
    try:
        return (ast.literal_eval(text),)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _bare(text: str) -> str:
    return _DECORATION.sub("", text.casefold()).strip("{}()\"'`*.").replace("\\dfrac", "\\frac")
