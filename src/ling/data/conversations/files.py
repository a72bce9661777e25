"""Which files a recipe's names mean: paths, entries of `dataset_info.json`, sets on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...config.sft import ChatDataConfig
from ...errors import DataError, UsageError
from ...hub.datasets import dataset_folder, is_dataset
from ..folder import walk
from ..packed import is_packed
from ..plaintext import inner_suffix
from ..tally import Tally
from .dataset_info import DataSet, DatasetInfo, Layout, chosen_files

_RECORDS = (".jsonl", ".ndjson", ".json", ".parquet")
_OTHER = {
    **dict.fromkeys((".txt", ".md"), "plain text, which `ling pretrain` takes"),
    **dict.fromkeys((".csv", ".tsv", ".xlsx", ".arrow"), "a table"),
    **dict.fromkeys((".py", ".sh"), "code, which is not run"),
}


@dataclass(frozen=True)
class Source:
    """Files that are read in turn as one, of which `limit` records at most are taken."""

    name: str
    files: list[Path]
    layout: Layout
    limit: int | None


def sources(data: ChatDataConfig, names: list[str]) -> list[Source]:
    """The files of each name, which are fetched where they are on the hub.

    Raises `UsageError` for names that mean nothing and `DataError` for a folder without records.
    """
    info = None if data.dataset_info is None else DatasetInfo(data.dataset_info)
    return [_source(data, info, name) for name in names]


def _source(data: ChatDataConfig, info: DatasetInfo | None, name: str) -> Source:
    if info is not None and name in info:
        entry = info.data_set(name)
        return Source(name, _files(entry), entry.layout, _least(entry.limit, data.max_samples))
    plain = DataSet(name, Layout(data.format))
    if is_dataset(name):
        return Source(name, _files(plain), plain.layout, data.max_samples)
    path = Path(name)
    if info is not None and not path.exists():
        raise UsageError(f"{name}: no such file, and no entry of {info.path}{info.nearest(name)}")
    return Source(name, [_checked(path)], plain.layout, data.max_samples)


def _files(data_set: DataSet) -> list[Path]:
    """Files of an entry: one, or those in a folder that belong to its split and subset."""
    source = data_set.source
    folder = dataset_folder(source) if is_dataset(source) else Path(source)
    if not folder.is_dir():
        return [_checked(folder)]
    there = [f.path for f in walk(folder, Tally()) if _suffix(f.path) in _RECORDS]
    found = chosen_files(there, folder, data_set)
    if not found:
        wanted = f"`{data_set.split or 'train'}`"
        names = ", ".join(f.relative_to(folder).as_posix() for f in there[:5]) or "none"
        raise DataError(f"no files of records of the split {wanted} (files: {names})", path=source)
    return found


def _checked(path: Path) -> Path:
    """A file, unless its name says that it has no records."""
    reason = _OTHER.get(_suffix(path))
    if reason is not None and path.is_file():
        raise DataError(f"{reason}; expected {', '.join(_RECORDS)}", path=path)
    return path


def _suffix(path: Path) -> str:
    return inner_suffix(path) if is_packed(path) else path.suffix.lower()


def _least(*limits: int | None) -> int | None:
    return min((n for n in limits if n is not None), default=None)
