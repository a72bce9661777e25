"""The BYU chit-chat dataset: conversations of two people as turns of one or more messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ....errors import DataError
from ..archive import Archive
from .dialogue import dialogue

_DATASET = r"chitchat_dataset/dataset\.json"
# Shorter ones are mostly a greeting without an answer.
_MIN_TURNS = 4


def documents(archive: Archive) -> Iterator[dict[str, Any]]:
    """One document a conversation in which both wrote at least twice."""
    for member in archive.members(_DATASET):
        try:
            found = list(_conversations(json.loads(member.data)))
        except (ValueError, LookupError, TypeError, AttributeError) as err:
            raise DataError(f"{member.name} has another form than expected ({err})") from None
        yield from found


def _conversations(dataset: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for conversation in dataset.values():
        turns = _turns(conversation["messages"])
        if len(turns) >= _MIN_TURNS:
            yield dialogue(turns)


def _turns(messages: list[list[dict[str, str]]]) -> list[str]:
    """What one person writes until the other does, joined."""
    turns: list[str] = []
    last = None
    for message in (message for turn in messages for message in turn):
        text = " ".join(message["text"].split())
        if not text:
            continue
        if message["sender"] == last:
            turns[-1] += " " + text
        else:
            turns.append(text)
        last = message["sender"]
    return turns
