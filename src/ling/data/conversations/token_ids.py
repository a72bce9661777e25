"""Records that are token ids already."""

from __future__ import annotations

from typing import Any

from ...text import as_json
from .fields import RecordError, Row
from .messages import Tags
from .talk import required
from .types import Origin, Tokens

IGNORED = -100


def read_tokens(row: Row, tags: Tags, origin: Origin) -> Tokens:
    """`input_ids` and `labels`, which are not shifted; all ids are learned without `labels`."""
    required(row, "input_ids")
    ids = _ids(row, "input_ids", least=0)
    labels = list(ids) if row.get("labels") is None else _ids(row, "labels", least=IGNORED)
    if len(labels) != len(ids):
        raise RecordError(f"`labels` are {len(labels)}, but `input_ids` {len(ids)}")
    _check_labels(ids, labels)
    return Tokens(ids, labels, origin)


def _ids(row: Row, column: str, least: int) -> list[int]:
    value: Any = row.get(column)
    if not isinstance(value, list) or not value:
        raise RecordError(f"`{column}` is {as_json(value)}, expected a list of ids")
    if not all(type(n) is int for n in value) or min(value) < least:
        at = next(i for i, n in enumerate(value) if type(n) is not int or n < least)
        raise RecordError(f"`{column}[{at}]` is {as_json(value[at])}, expected an id")
    return value


def _check_labels(ids: list[int], labels: list[int]) -> None:
    """Labels that are those of the next token would be shifted once more."""
    for i, label in enumerate(labels):
        if label < 0 and label != IGNORED:
            raise RecordError(f"`labels[{i}]` is {label}, expected an id or {IGNORED}")
    if labels == ids:
        return
    told = [i for i, label in enumerate(labels[:-1]) if label != IGNORED]
    if (
        told
        and all(labels[i] == ids[i + 1] for i in told)
        and any(labels[i] != ids[i] for i in told)
    ):
        raise RecordError("`labels` are those of the next token; expected them not to be shifted")
