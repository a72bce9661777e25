"""Fetched texts on the disk: `NAME.jsonl`, and `NAME.json` that says what it is made of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError, UsageError
from ...files.atomic import read_json
from ..records import read_json_records
from .catalogue import Package, default_folder, find

# Counts up when a parser makes something else of the same archive.
LAYOUT = 1


def texts_path(package: Package, folder: Path) -> Path:
    """The file of a package's documents."""
    return folder / f"{package.name}.jsonl"


def about_path(package: Package, folder: Path) -> Path:
    """The file that says what the documents are made of; written last."""
    return folder / f"{package.name}.json"


def terms_path(package: Package, folder: Path) -> Path:
    """The file with the licence's text, as the package has it."""
    return folder / f"{package.name}.licence.txt"


def is_ready(package: Package, folder: Path) -> bool:
    """Whether the documents are there, whole, and made of the version that is pinned."""
    texts, about = texts_path(package, folder), about_path(package, folder)
    if not (texts.is_file() and about.is_file()):
        return False
    try:
        stated = read_json(about)
    except UsageError:  # damaged: made again
        return False
    expected = {"source": package.source, "layout": LAYOUT, "bytes": texts.stat().st_size}
    return isinstance(stated, dict) and expected.items() <= stated.items()


def require(names: Sequence[str], folder: Path | None = None) -> None:
    """`UsageError` with the command that fetches what of `names` is not in `folder`."""
    where = default_folder() if folder is None else folder
    missing = [name for name in names if not is_ready(find(name), where)]
    if missing:
        out = "" if folder is None else f" --out {shlex.quote(str(folder))}"
        raise UsageError(
            f"no text of {', '.join(missing)} in {where}: "
            f"run `ling data fetch {' '.join(missing)}{out}`"
        )


def records(name: str, folder: Path | None = None) -> Iterator[dict[str, Any]]:
    """The documents of a fetched package, each with `text`, in their fixed order.

    `UsageError` when it is not there, `DataError` for a damaged line. Dialogues have `turns`.
    """
    require([name], folder)
    path = texts_path(find(name), default_folder() if folder is None else folder)
    for record in read_json_records(path):
        if not isinstance(record.value, dict):
            raise DataError("expected a JSON object", path=path, line=record.line)
        yield record.value


def line_of(document: dict[str, Any]) -> str:
    """A document as a line of the file."""
    return json.dumps(document, ensure_ascii=False) + "\n"
