"""ChatterBot's English corpus: YAML files of short conversations by topic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from ....errors import DataError
from ..archive import Archive
from .dialogue import dialogue

_TOPICS = r"chatterbot_corpus/data/english/[a-z_]+\.yml"


def documents(archive: Archive) -> Iterator[dict[str, Any]]:
    """One document a conversation, mostly a question and its answer; `topic` is the file's name."""
    for member in archive.members(_TOPICS):
        topic = member.name.rpartition("/")[2].removesuffix(".yml")
        for turns in _conversations(member.text, member.name):
            yield dialogue(turns, topic=topic)


def _conversations(text: str, name: str) -> list[list[str]]:
    """The conversations of a file that have an answer."""
    try:
        # This loader makes text of everything: `Yes` is an answer, not the value true.
        found = yaml.load(text, yaml.BaseLoader)["conversations"]
        if not isinstance(found, list):
            raise TypeError("conversations are no list")
        spoken = [[turn.strip() for turn in turns] for turns in found]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as err:
        raise DataError(f"{name} has another form than expected ({err})") from None
    return [turns for turns in spoken if len(turns) > 1 and all(turns)]
