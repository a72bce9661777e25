"""WordNet: each set of synonyms with its meaning and examples, and how usual each sense is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ....errors import DataError
from ..archive import Archive

_DATA = r"package/dict/data\.(?:adj|adv|noun|verb)"
_SENSES = r"package/dict/index\.sense"
_PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
_SENSE_PARTS = dict(zip("12345", ("noun", "verb", "adjective", "adverb", "adjective"), strict=True))
# Adjectives may say in brackets where they stand: `galore(ip)`.
_POSITION = re.compile(r"\((?:a|p|ip)\)$")
_EXAMPLE = re.compile(r'"([^"]+)"')


class _Sense(NamedTuple):
    """The number of a word's sense, 1 is the most usual, and how often a tagged corpus has it."""

    number: int
    times: int


_Senses = dict[tuple[str, str, str], _Sense]


def documents(archive: Archive) -> Iterator[dict[str, Any]]:
    """One document a set of synonyms.

    `lemmas` are the words and `lemma` the first; `part_of_speech`, `gloss` (the meaning) and
    `examples` belong to all of them, `sense` and `count` to the first.
    """
    try:
        senses = _senses(archive)
        for member in archive.members(_DATA):
            for line in member.text.splitlines():
                if line[:1].isdigit():  # the licence before is indented
                    yield _synonyms(line, senses)
    except (ValueError, LookupError) as err:
        if isinstance(err, DataError):
            raise
        raise DataError(f"a line of WordNet has another form than expected ({err})") from None


def _senses(archive: Archive) -> _Senses:
    """By word, part of speech and the number of the set in its file."""
    senses = {}
    for member in archive.members(_SENSES):
        for line in member.text.splitlines():
            key, offset, number, times = line.split()
            word, _, rest = key.partition("%")
            senses[word, _SENSE_PARTS[rest[0]], offset] = _Sense(int(number), int(times))
    return senses


def _synonyms(line: str, senses: _Senses) -> dict[str, Any]:
    head, _, meaning = line.partition(" | ")
    fields = head.split(" ")
    part, count = _PARTS[fields[2]], int(fields[3], 16)
    words = [_POSITION.sub("", word) for word in fields[4 : 4 + 2 * count : 2]]
    sense = senses.get((words[0].lower(), part, fields[0]), _Sense(1, 0))
    lemmas = [word.replace("_", " ") for word in words]
    gloss, examples = _parts(meaning)
    return {
        "text": _prose(lemmas, part, gloss, examples),
        "lemma": lemmas[0],
        "lemmas": lemmas,
        "part_of_speech": part,
        "gloss": gloss,
        "examples": examples,
        "sense": sense.number,
        "count": sense.times,
    }


def _parts(meaning: str) -> tuple[str, list[str]]:
    """The meaning itself and the sentences that are quoted after it."""
    gloss, quote, rest = meaning.strip().partition('; "')
    return gloss.strip(" ;"), _EXAMPLE.findall(quote + rest)


def _prose(lemmas: list[str], part: str, gloss: str, examples: list[str]) -> str:
    quoted = "".join(f' "{example}"' for example in examples)
    return f"{', '.join(lemmas)} ({part}): {gloss}.{quoted}"
