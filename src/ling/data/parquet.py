"""Records and texts of a parquet file, through pyarrow (the extra `data`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from .plaintext import require_file
from .records import NoTextKeyError, Record, text_key

_BATCH_ROWS = 256


def read_parquet_records(
    path: Path, wanted: str | None, part: tuple[int, int, int] | None = None
) -> Iterator[Record]:
    """The rows of the column `wanted`, by default of the column that is likely to be the text.

    `part` = (first row group, the one behind the last, rows before) reads these row groups only.
    Raises `DataError` for a file that is not parquet and when the column is not there or not of
    text, `UsageError` without pyarrow.
    """
    with _opened(path) as file:
        column = _column(file.schema_arrow, wanted, path)
        first, stop, number = part or (0, file.num_row_groups, 0)
        batches = file.iter_batches(
            batch_size=_BATCH_ROWS, row_groups=range(first, stop), columns=[column]
        )
        for batch in batches:
            for text in batch.column(0).to_pylist():
                number += 1
                yield Record(number, number, {column: text})


def read_parquet_rows(path: Path) -> Iterator[Record]:
    """The rows with all columns, numbered from 1; raises as `read_parquet_records`.

    Values that JSON does not have, such as dates, are Python's own.
    """
    number = 0
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield Record(number, number, row)


def row_groups(path: Path) -> list[int]:
    """Rows of each row group; raises as `read_parquet_records`."""
    with _opened(path) as file:
        return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    require_file(path)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError(f"{path}: parquet needs pyarrow: pip install 'ling[data]'") from None
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as err:
        reason = str(err).splitlines()[0][:120]
        raise DataError(f"not parquet, or damaged ({reason})", path=path) from None


def _column(schema: Any, wanted: str | None, path: Path) -> str:
    """The name of the text column."""
    # Text stands for columns of text, so that the choice is the one made for JSON.
    kinds = {f.name: "" if _is_text(f.type) else None for f in schema}
    name = wanted if wanted is not None else text_key(kinds)
    if name is None or name not in kinds:
        raise NoTextKeyError(kinds, wanted, path)
    if kinds[name] is None:
        raise DataError(f"the column `{name}` is {schema.field(name).type}, not text", path=path)
    return name


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    # A column of nulls only has no type of its own.
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_null(kind)
        or (hasattr(types, "is_string_view") and types.is_string_view(kind))
    )
