"""What each part of the corpus is made of: our own grammars, or fetched packages of text."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..data.chat import CHAT_TEMPLATE, ChatTemplate
from ..data.conversations.types import Conversation, Origin
from ..data.corpus import documents
from ..data.packages.store import records, require
from ..data.sources import STDLIB
from ..files.atomic import write_atomic
from . import dialogues as grammars

Split = Literal["train", "held_out"]
# Of conversations that are no grammar's, one in this number is held out.
_HELD_OUT_ONE_IN = 50
# What is left of small talk: a few turns of a line or two.
_MOST_TURNS, _MOST_CHARS = 8, 240
_REPEATS = 12_000  # documents
_PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "..."}
)
_LINK = re.compile(r"https?:|www\.|@\w|\.com\b", re.I)
_COARSE = re.compile(
    r"\b(?:\w*fuck\w*|shit\w*|bitch\w*|cunt\w*|dick\w*|penis|porn\w*|sex\w*|rape\w*|nigg\w*|fag\w*|"
    r"whore\w*|slut\w*|kill (?:my|your)self|suicid\w*|nazi\w*|hitler)\b",
    re.I,
)


@dataclass(frozen=True)
class Texts:
    """Documents of plain text: `stdlib`, or files as `ling data prepare` takes them."""

    about: str
    sources: str | list[str]

    def texts(self, size: int) -> Iterator[str]:
        """Documents of about `size` bytes, from everywhere."""
        return (d.text for d in documents(self.sources, size))


@dataclass(frozen=True)
class Conversations:
    """Conversations to train on, and others that are held out."""

    about: str
    documents: Callable[[Split], Iterator[Conversation]]

    def texts(self, size: int) -> Iterator[str]:
        """The first of those to train on, rendered, of about `size` bytes."""
        template = ChatTemplate(CHAT_TEMPLATE)
        for c in self.documents("train"):
            text = template.render(c.messages, c.tools, add_generation_prompt=False)
            yield text
            size -= len(text.encode())
            if size <= 0:
                return


Part = Texts | Conversations


def nano_parts(packages: Path, out: Path) -> dict[str, Part]:
    """The parts of `ling-nano` by name, of packages that were fetched; files go to `out`."""
    require(PACKAGES, packages)
    prose = [str(packages / f"{name}.jsonl") for name in ("brown", "shakespeare")]
    return {
        "dialogues": Conversations("dialogues of our own grammars", partial(_dialogues, packages)),
        "chitchat": Conversations("small talk", partial(_small_talk, packages)),
        "reasoning": Conversations("easy tasks", partial(_tasks, packages)),
        "prose": Texts("prose", [*prose, _text_file(out / "wordnet.jsonl", _meanings(packages))]),
        "code": Texts("Python's standard library", STDLIB),
        "repeats": Texts(
            "words in pieces, again in another order",
            [_text_file(out / "repeats.jsonl", _repeats(packages))],
        ),
    }


PACKAGES = ("brown", "shakespeare", "wordnet", "chitchat", "reasoning-gym")


def _usual_words(packages: Path) -> list[dict[str, Any]]:
    """Meanings that occur in WordNet's tagged corpus, the most usual first; others are names of
    species and the like."""
    usual = (record for record in records("wordnet", packages) if record["count"])
    return sorted(usual, key=lambda record: -record["count"])


def _text_file(path: Path, texts: Iterable[str]) -> str:
    """The path of a file of documents, written on first use."""
    if not path.is_file():
        write_atomic(path, (json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def _meanings(packages: Path) -> Iterator[str]:
    for record in _usual_words(packages):
        yield record["text"]


def _repeats(packages: Path) -> Iterator[str]:
    """Documents in which only what was there before can be known: without them a model forgets how
    to copy before its text rewards it (docs/guides/small-model.md)."""
    words = [record["lemma"] for record in _usual_words(packages)]
    rng = random.Random(0)
    for _ in range(_REPEATS):
        yield _said_again(words, rng)


def _said_again(words: list[str], rng: random.Random) -> str:
    """Pieces of one to four words, two or three times in orders of their own."""
    pieces = [rng.sample(words, rng.randint(1, 4)) for _ in range(rng.randint(3, 8))]
    orders = (rng.sample(pieces, len(pieces)) for _ in range(rng.randint(2, 3)))
    between = rng.choice((" ", ", ", "\n"))
    return between.join(word for order in orders for piece in order for word in piece)


def conversation(record: dict[str, Any], name: str, number: int) -> Conversation:
    """A record in OpenAI's form, number `number` of the source `name`."""
    messages = record["messages"]
    said = [m["role"] == "assistant" for m in messages]
    return Conversation(messages, record.get("tools"), said, Origin(Path(name), number))


def as_record(c: Conversation) -> dict[str, Any]:
    """A conversation in OpenAI's form."""
    return {"messages": c.messages, **({"tools": c.tools} if c.tools else {})}


# ---- parts of conversations --------------------------------------------------------------------


def dialogues(packages: Path, split: Split, seed: int) -> Iterator[dict[str, Any]]:
    """Records of our own grammars, those to train on without end."""
    words = [(r["lemma"], r["part_of_speech"], r["gloss"]) for r in _usual_words(packages)]
    return grammars.records(split, seed, definitions=words)


def _dialogues(packages: Path, split: Split) -> Iterator[Conversation]:
    for n, record in enumerate(dialogues(packages, split, seed=0), 1):
        yield conversation(record, "dialogues", n)


def _small_talk(packages: Path, split: Split) -> Iterator[Conversation]:
    """A few turns at a time, alternating from the user's on.

    The system text keeps people apart from the assistant: without it, it is nobody's student.
    """
    for n, turns in _turns("chitchat", packages, split):
        for few in _talks(turns):
            yield _alternating(few, "chitchat", n, system="Small talk of two people.")


def _talks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Runs of turns that are plain and short, in pairs."""
    run: list[str] = []
    for line in lines:
        turn = " ".join(line.translate(_PLAIN).split())
        if turn and len(turn) <= _MOST_CHARS and _is_plain(turn):
            run.append(turn)
            if len(run) < _MOST_TURNS:
                continue
        yield from _pairs(run)
        run = []
    yield from _pairs(run)


def _pairs(run: list[str]) -> Iterator[list[str]]:
    if len(run) >= 2:
        yield run[: len(run) // 2 * 2]


def _is_plain(turn: str) -> bool:
    return turn.isascii() and not _LINK.search(turn) and not _COARSE.search(turn)


def _tasks(packages: Path, split: Split) -> Iterator[Conversation]:
    """Each question and its answer."""
    for n, turns in _turns("reasoning-gym", packages, split):
        yield _alternating(turns, "reasoning-gym", n)


def _turns(name: str, packages: Path, split: Split) -> Iterator[tuple[int, list[str]]]:
    """Turns of a package's dialogues by their number, which decides what is held out."""
    for n, record in enumerate(records(name, packages), 1):
        if (n % _HELD_OUT_ONE_IN == 0) == (split == "held_out"):
            yield n, record["turns"]


def _alternating(turns: list[str], name: str, number: int, system: str = "") -> Conversation:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    first = [{"role": "system", "content": system}] if system else []
    return conversation({"messages": [*first, *messages]}, name, number)
