"""What a record of a fine-tuning file is, whichever format it was written in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Origin:
    """Where a record was read: `line` from 1, in a `.json` array or parquet the record's number."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Conversation:
    """Messages in OpenAI's form, as `ChatTemplate.render` takes them.

    Roles are `system`, `user`, `assistant` and `tool`; `tools` are wrapped (`"type": "function"`)
    or None. `in_loss` says of each message whether the file keeps it in the loss (`weight`, rule
    2): False for a message that is not the assistant's. Fields of a record that mean nothing for
    training are gone.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    in_loss: list[bool]
    origin: Origin
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt: both conversations begin with the same messages and tools."""

    chosen: Conversation
    rejected: Conversation
    origin: Origin


@dataclass(frozen=True)
class Tokens:
    """A record that is ids already; `labels` are -100 where nothing is learned, not shifted."""

    input_ids: list[int]
    labels: list[int]
    origin: Origin


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used, and why, in one line."""

    origin: Origin
    reason: str


Record = Conversation | Preference | Tokens
