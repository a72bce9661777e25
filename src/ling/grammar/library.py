"""llguidance, as far as it is used here: its tokenizer, its limits, and how an error of it reads.

The child process imports this file too, so it imports neither torch nor numpy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from ..errors import RequestError

MISSING = "structured output needs llguidance: pip install 'ling[serve]'"


class Vocabulary(NamedTuple):
    """What the library has to know of the tokens of a model."""

    tokens: list[bytes]
    """Bytes of each id; none for ids without a token, which no mask allows then."""
    special_ids: list[int]
    """Ids that text does not stand for: a grammar names them by id."""
    stop_ids: list[int]
    """Ids that end an answer."""


def llguidance() -> ModuleType:
    """The library; raises `RequestError` where it is not installed."""
    try:
        import llguidance as library
    except ImportError:
        raise RequestError(MISSING, status=501, code="not_installed") from None
    return library


class _Wrapped:
    """A tokenizer as the library asks for it."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, encode: Callable[[str], list[int]]) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special_ids
        self.eos_token_id = vocabulary.stop_ids[0]
        self._encode = encode

    def __call__(self, text: Any) -> list[int]:
        if not isinstance(text, str):  # the library asks whether bytes may be given
            raise TypeError("only text is encoded")
        return self._encode(text)


def library_tokenizer(vocabulary: Vocabulary, encode: Callable[[str], list[int]]) -> Any:
    """The library's own tokenizer; 0.9 s for 157,184 ids.

    `encode` gives the ids of a text: of several ways to spell what must come, the model's own is
    the forced one.
    """
    library = llguidance()
    wrapped = library.TokenizerWrapper(_Wrapped(vocabulary, encode))
    return library.LLTokenizer(wrapped, eos_token=vocabulary.stop_ids)


def library_matcher(tokenizer: Any, source: str) -> Any:
    """A compiled grammar at its beginning, or in an error state (`problem`)."""
    library = llguidance()
    # More of the same object's properties may come next than the library expects.
    limits = library.LLParserLimits(max_items_in_row=6000, verbose_errors=False)
    return library.LLMatcher(tokenizer, source, log_level=0, limits=limits)


def problem(matcher: Any) -> str | None:
    """Why a matcher is in its error state, in one line; None while it is not."""
    return error_text(matcher.get_error()) if matcher.is_error() else None


# Where in our own rules a schema is says nothing to a client.
_PLACE = re.compile(r"^(at \d+\(\d+\): )?failed to compile JSON schema: ")
_TOLD = {
    "NoExtension": "no text can match it",
    "Unable to determine if regex is empty": "its patterns are too complex together",
}
_KEYS = re.compile(r"Unimplemented keys: (\[.*\])")


def error_text(error: str) -> str:
    """The library's error or warning in one line."""
    keys = _KEYS.search(error)
    if keys is not None:
        names = ", ".join(f"`{name}`" for name in re.findall(r'"([^"]*)"', keys[1]))
        return f"the schema uses {names}, which cannot be enforced"
    lines = [line.strip() for line in _PLACE.sub("", error.strip()).splitlines() if line.strip()]
    told = next((text for start, text in _TOLD.items() if lines and lines[0].startswith(start)), "")
    if told:
        return told
    last = next((line for line in lines if line.startswith("error: ")), None)
    return (
        (lines[0] if last is None else f"{lines[0]} {last}")[:500] if lines else "no reason given"
    )


def ignored(warnings: Sequence[str]) -> tuple[str, ...]:
    """What a lenient schema asked for in vain: keywords, or what the library says."""
    found: list[str] = []
    for text in warnings:
        keys = _KEYS.search(text)
        found += re.findall(r'"([^"]*)"', keys[1]) if keys is not None else [error_text(text)]
    return tuple(dict.fromkeys(found))
