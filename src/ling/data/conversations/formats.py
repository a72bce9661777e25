"""One record of each format as a conversation, and telling the format by a record's keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...text import as_json
from .fields import RecordError, Row, WrongKindError
from .messages import Tags
from .pairs import PAIR_COLUMNS, read_pair
from .talk import ANSWERS, MESSAGES, QUESTIONS, read_alpaca, read_messages, read_prompt_response
from .token_ids import read_tokens
from .types import Origin, Record

Reader = Callable[[Row, Tags, Origin], Record]
READERS: dict[str, Reader] = {
    "messages": read_messages,
    "sharegpt": read_messages,
    "alpaca": read_alpaca,
    "prompt_response": read_prompt_response,
    "preference": read_pair,
    "tokens": read_tokens,
}
_MEDIA = frozenset({"images", "videos", "audios", "image", "video", "audio"})


def read_record(row: Row, format: str, tags: Tags, origin: Origin) -> Record:
    """A record of a format, `auto` for the one that its keys tell; raises `RecordError`."""
    _check_media(row)
    return READERS[told(row) if format == "auto" else format](row, tags, origin)


def told(row: Row) -> str:
    """The format of a record by its keys; `WrongKindError` for one that is not for fine-tuning."""
    if row.get("input_ids") is not None:
        return "tokens"
    if row.first(*PAIR_COLUMNS):
        return "preference"
    _check_kto(row)
    if row.first(*MESSAGES):
        return "messages"
    if row.get("instruction") is not None and row.first("output", "input", "history"):
        return "alpaca"
    if row.first(*QUESTIONS) and row.first(*ANSWERS):
        return "prompt_response"
    if row.get("instruction") is not None:
        return "alpaca"
    if isinstance(row.get("text"), str):
        raise WrongKindError(
            "plain text (`text`), not a conversation; `ling pretrain` and `ling data prepare` take "
            "such files"
        )
    raise RecordError(
        f"no conversation: expected `messages`, `conversations`, `instruction`, `prompt` or the "
        f"like; its keys are {row.keys() or 'none'}"
    )


def _check_kto(row: Row) -> None:
    label = row.get("label")
    if isinstance(label, bool) and row.first(*MESSAGES, "completion", "output", "response"):
        raise WrongKindError(
            f"a KTO record (`label` is {as_json(label)}), which `ling sft` does not train on; it "
            "takes pairs of `chosen` and `rejected`, or conversations with `data.format` given"
        )


def _check_media(row: Row) -> None:
    if _MEDIA.isdisjoint(row.record):
        return
    for column in sorted(_MEDIA):
        value: Any = row.record.get(column)
        if value and not isinstance(value, bool):
            raise WrongKindError(f"`{column}` is given: Ling models read text only")
