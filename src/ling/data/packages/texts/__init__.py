"""From archives to documents: a parser for each package.

A document is a JSON object with `text`; a dialogue also has `turns`, a word its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..archive import Archive
from . import (
    bible,
    brown,
    chatterbot,
    chitchat,
    gcide,
    human_eval,
    python_docs,
    shakespeare,
    wordnet,
)

Parser = Callable[[Archive], Iterator[dict[str, Any]]]

PARSERS: dict[str, Parser] = {
    "brown": brown.documents,
    "wordnet": wordnet.documents,
    "chitchat": chitchat.documents,
    "chatterbot": chatterbot.documents,
    "shakespeare": shakespeare.documents,
    "bible": bible.documents,
    "python-docs": python_docs.documents,
    "gcide": gcide.documents,
    "human-eval": human_eval.documents,
}
