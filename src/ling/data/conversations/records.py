"""Records of fine-tuning files of all formats, one at a time, with those that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from ...config.sft import ChatDataConfig
from ...errors import DataError
from ...text import as_json, one_line
from ..parquet import read_parquet_rows
from ..records import Fault, records_and_faults
from ..records import Record as Value
from .dataset_info import Layout
from .fields import RecordError, Row, WrongKindError, without_nulls
from .files import Source, sources
from .formats import read_record
from .types import BadRecord, Conversation, Origin, Record


def read_records(
    data: ChatDataConfig, files: list[str] | None = None
) -> Iterator[Record | BadRecord]:
    """The records of `files`, by default `data.files`, of which one at a time is in memory.

    A record that cannot be used is a `BadRecord` in its place. Raises `DataError` for a file that
    has no records, or of a kind that is not for fine-tuning, `UsageError` for names and entries of
    `data.dataset_info` that mean none.
    """
    for source in sources(data, data.files if files is None else files):
        for record in _records(source):
            yield _last_turn(record) if data.mask_history else record


def _records(source: Source) -> Iterator[Record | BadRecord]:
    found = chain.from_iterable(_file(path, source.layout) for path in source.files)
    first = next(found, None)
    if first is None:
        raise DataError("no records", path=source.files[0])
    yield from islice(chain([first], found), source.limit)


def _file(path: Path, layout: Layout) -> Iterator[Record | BadRecord]:
    has_any = False
    for value in _values(path):
        if isinstance(value, Fault):
            yield BadRecord(Origin(path, value.number), value.error.reason)
            continue
        try:
            record = _read(value, layout, path)
        except WrongKindError as err:
            if not has_any:
                raise DataError(str(err), path=path, line=value.number) from None
            yield _bad(path, value, err)
        except RecordError as err:
            yield _bad(path, value, err)
        else:
            has_any = True
            yield record


def _values(path: Path) -> Iterable[Value | Fault]:
    if path.suffix.lower() != ".parquet":
        return records_and_faults(path)
    return (row._replace(value=without_nulls(row.value)) for row in read_parquet_rows(path))


def _read(value: Value, layout: Layout, path: Path) -> Record:
    if not isinstance(value.value, dict):
        raise RecordError(f"{as_json(value.value)}, expected an object")
    origin = Origin(path, value.number)
    try:
        return read_record(Row(value.value, layout.columns), layout.format, layout.tags, origin)
    except RecursionError:
        raise RecordError("nested too deeply") from None


def _bad(path: Path, value: Value, err: RecordError) -> BadRecord:
    return BadRecord(Origin(path, value.number), one_line(str(err)))


def _last_turn(record: Record | BadRecord) -> Record | BadRecord:
    """Only the last answer of a conversation that is in the loss stays in it."""
    if not isinstance(record, Conversation) or not any(record.in_loss):
        return record
    last = len(record.in_loss) - 1 - record.in_loss[::-1].index(True)
    return replace(record, in_loss=[i == last for i in range(len(record.in_loss))])
