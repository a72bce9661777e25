"""LLaMA-Factory's `dataset_info.json`: where data sets are, and what their columns mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...files.guarded import loads, read_regular
from ...text import as_json, first_line, nearest, shown
from .messages import ROLES, Tags

_MAX_BYTES = 64 << 20
_FORMATS = {"alpaca": "alpaca", "sharegpt": "sharegpt", "openai": "messages"}
# What LLaMA-Factory calls a column, and the name under which the readers know it.
_COLUMNS = {
    **{c: c for c in ("system", "tools", "chosen", "rejected", "history", "messages")},
    "prompt": "instruction",
    "query": "input",
    "response": "output",
}
_MEDIA = ("images", "videos", "audios")
_ROLE_TAGS = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "call",
    "system_tag": "system",
}
_TAGS = ("role_tag", "content_tag", *_ROLE_TAGS)
_KEYS = (
    *("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"),
    *("formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags"),
    "revision",
)
_REFUSED = {
    "script_url": "code of a data set is not run; write its records into a jsonl file",
    "cloud_file_name": "copy the file here and name it with `file_name`",
}


@dataclass(frozen=True)
class Layout:
    """How records are read: their format, and the file's names of columns and roles."""

    format: str = "auto"
    columns: Mapping[str, str] | None = None
    tags: Tags = field(default_factory=Tags)


@dataclass(frozen=True)
class DataSet:
    """An entry of `dataset_info.json`: a path or a hub's name, what is read of it, and how."""

    source: str
    layout: Layout
    limit: int | None = None
    split: str | None = None
    subset: str | None = None


class DatasetInfo:
    """The entries of a file by name; each is checked when it is asked for."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            self.path /= "dataset_info.json"
        try:
            self._entries = loads(read_regular(self.path, _MAX_BYTES))
        except OSError as err:
            raise UsageError(
                f"{self.path}: {err.strerror or first_line(err)}; `data.dataset_info` names it or "
                "its folder"
            ) from None
        except ValueError as err:
            raise UsageError(f"{self.path}: {first_line(err)}") from None
        if not isinstance(self._entries, dict):
            raise UsageError(f"{self.path}: expected an object with the names of data sets")

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def nearest(self, name: str) -> str:
        """A hint at the closest name."""
        return nearest(name, list(self._entries))

    def data_set(self, name: str) -> DataSet:
        """The entry of a name; `UsageError` for what is unknown in it, or refused, by its key."""
        entry = _Object(f"{self.path}: {shown(name)}", self._entries[name], _KEYS)
        for key, why in _REFUSED.items():
            if entry.get(key) is not None:
                raise entry.error(f"`{key}` is not supported: {why}")
        return DataSet(
            self._source(entry),
            _layout(entry),
            _count(entry),
            entry.text("split"),
            entry.text("subset"),
        )

    def _source(self, entry: _Object) -> str:
        hub, file, folder = (entry.text(k) for k in ("hf_hub_url", "file_name", "folder"))
        if hub is not None:
            revision = entry.text("revision")
            at, inside = f"@{revision}" if revision else "", f"/{folder}/*" if folder else ""
            return f"hf://datasets/{hub}{at}{inside}"
        if file is None:
            other = next((k for k in ("ms_hub_url", "om_hub_url") if entry.get(k)), None)
            what = f"only `{other}`" if other else "neither `file_name` nor `hf_hub_url`"
            raise entry.error(f"{what}; download it and name the file with `file_name`")
        return str(self.path.parent / file / (folder or ""))


class _Object:
    """An object of the file with known keys, of which null ones are absent."""

    def __init__(self, where: str, value: Any, known: Sequence[str]) -> None:
        self._where, self._value = where, value or {}
        if not isinstance(self._value, dict):
            raise self.error(f"{as_json(value)}, expected an object")
        for key in self._value:
            if key not in known:
                raise self.error(f"no key {shown(key)}{nearest(key, list(known))}")

    def error(self, reason: str) -> UsageError:
        return UsageError(f"{self._where}: {reason}")

    def keys_given(self) -> list[str]:
        return [k for k, v in self._value.items() if v is not None]

    def get(self, key: str) -> Any:
        return self._value.get(key)

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise self.error(f"`{key}` is {as_json(value)}, expected a text")
        return value

    def inner(self, key: str, known: Sequence[str]) -> _Object:
        return _Object(f"{self._where}: `{key}`", self.get(key), known)


def _layout(entry: _Object) -> Layout:
    form, ranking = entry.get("formatting") or "alpaca", entry.get("ranking") or False
    if form not in _FORMATS:
        raise entry.error(f"`formatting` is {as_json(form)}, expected one of {', '.join(_FORMATS)}")
    if not isinstance(ranking, bool):
        raise entry.error(f"`ranking` is {as_json(ranking)}, expected true or false")
    columns = _columns(entry, form)
    if form == "alpaca" and not ranking and columns is not None and "output" not in columns:
        raise entry.error(
            "plain text (no column `response`), which `ling pretrain` and `ling data prepare` take"
        )
    return Layout("preference" if ranking else _FORMATS[form], columns, _tags(entry))


def _columns(entry: _Object, form: str) -> dict[str, str] | None:
    given = entry.inner("columns", (*_COLUMNS, *_MEDIA, "kto_tag"))
    for key in given.keys_given():
        if key in _MEDIA:
            raise given.error(f"`{key}` is not supported: Ling models read text only")
        if key == "kto_tag":
            raise given.error(
                "`kto_tag` is not supported: `ling sft` trains on conversations and on pairs "
                "(`ranking`), not on KTO's labels"
            )
    other = "messages" if form == "alpaca" else ("prompt", "query", "response", "history")
    columns = {_COLUMNS[k]: str(given.text(k)) for k in given.keys_given() if k not in other}
    if not given.keys_given() or form == "alpaca":
        return columns or None
    return {"messages": "conversations", **columns}


def _tags(entry: _Object) -> Tags:
    given = entry.inner("tags", _TAGS)
    roles = {given.text(tag): role for tag, role in _ROLE_TAGS.items() if given.text(tag)}
    named = {str(name): role for name, role in roles.items()}
    return Tags(given.text("role_tag"), given.text("content_tag"), {**ROLES, **named})


def _count(entry: _Object) -> int | None:
    count = entry.get("num_samples")
    if count is not None and (type(count) is not int or count < 1):
        raise entry.error(f"`num_samples` is {as_json(count)}, expected a number")
    return count


def chosen_files(files: list[Path], root: Path, data_set: DataSet) -> list[Path]:
    """The files of a folder that belong to a subset and a split, by their names.

    Files that name no split are all of `train`, as data sets of one file do.
    """
    names = {f: f.relative_to(root).as_posix() for f in files}
    if data_set.subset not in (None, "default"):
        files = [f for f in files if _has_word(names[f], str(data_set.subset))]
    split = data_set.split or "train"
    found = [f for f in files if _has_word(names[f], split)]
    if not found and split == "train":
        found = [f for f in files if not any(_has_word(names[f], s) for s in _OTHER_SPLITS)]
    return found


_OTHER_SPLITS = ("test", "validation", "valid", "dev", "eval")


def _has_word(name: str, word: str) -> bool:
    """Whether a path has `word` as a part between signs: `data/train-00000-of-00001.parquet`."""
    return re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", name, re.IGNORECASE) is not None
