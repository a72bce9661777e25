"""The Brown corpus: each sample is words with their tags, `The/at`, which become prose again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..archive import Archive

_SAMPLES = r"package/c[a-r][0-9]{2}"
_CLOSING, _OPENING = set(".,;:?!)'") | {"''"}, {"(", "``"}
# Tokens such as `**zg` stand for formulas and signs that the corpus could not print.
_SIGN = "**"


def documents(archive: Archive) -> Iterator[dict[str, Any]]:
    """One document a sample of about 2,000 words."""
    for member in archive.members(_SAMPLES):
        yield {"text": prose(member.text), "name": member.name.rpartition("/")[2]}


def prose(tagged: str) -> str:
    """Tagged text as written prose, one line a paragraph."""
    paragraphs = re.split(r"\n\s*\n", tagged)
    return "\n".join(filter(None, (_joined(_words(p)) for p in paragraphs)))


def _words(tagged: str) -> list[str]:
    words: list[str] = []
    for token in tagged.split():
        word = token.rpartition("/")[0] or token
        if not word.startswith(_SIGN) and not _is_double(word, words[-1] if words else ""):
            words.append(word)
    return words


def _is_double(word: str, before: str) -> bool:
    """Whether a mark is there twice, as the corpus writes some, or a stop after `Jr.`."""
    return (word in ";?!" and word == before) or (word == "." and before.endswith("."))


def _joined(words: list[str]) -> str:
    """Words with spaces where people write them, and with ordinary quotation marks."""
    text, glue = "", ""
    for word in words:
        text += ("" if word in _CLOSING else glue) + word.replace("``", '"').replace("''", '"')
        glue = "" if word in _OPENING else " "
    return text
