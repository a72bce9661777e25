"""Columns of a record: null means absent, and errors call a column what the file calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...text import as_json


class RecordError(ValueError):
    """A record that cannot be used; the text is why, in one line."""


class WrongKindError(RecordError):
    """A record of a kind that is not for fine-tuning here, most likely like all of its file."""


class Row:
    """A record by names of columns.

    `columns` says which key of the record each column is; without it a column is the key of the
    same name.
    """

    def __init__(self, record: dict[str, Any], columns: Mapping[str, str] | None = None) -> None:
        self.record, self._columns = record, columns

    def name(self, column: str) -> str:
        """What the file calls a column."""
        return column if self._columns is None else self._columns.get(column, column)

    def get(self, column: str) -> Any:
        """The value, None where there is none."""
        if self._columns is None:
            return self.record.get(column)
        key = self._columns.get(column)
        return None if key is None else self.record.get(key)

    def first(self, *columns: str) -> str | None:
        """The first of the columns that has a value."""
        for column in columns:
            if self.get(column) is not None:
                return column
        return None

    def text(self, column: str) -> str | None:
        """A column of text; `RecordError` for other values."""
        value = self.get(column)
        if value is None or isinstance(value, str):
            return value
        raise RecordError(f"`{self.name(column)}` is {as_json(value)}, expected a text")

    def keys(self) -> str:
        """The keys that have values, for an error."""
        names = [str(k) for k, v in self.record.items() if v is not None]
        return ", ".join(f"`{n[:40]}`" for n in names[:8]) + (", ..." if len(names) > 8 else "")


def without_nulls(value: Any) -> Any:
    """A value without the keys that are null: Arrow gives each object all keys of its column."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in value]
    return value
