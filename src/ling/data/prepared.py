"""A folder that `ling data prepare` wrote, and whether it fits what is asked for now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.atomic import read_json, write_atomic
from .folder import PREPARED, walk
from .tally import Tally

_BLOCK_BYTES, _MAX_BLOCKS = 1 << 16, 16
# What a `prepared.json` without the key means.
_DEFAULTS = {"seed": 0}
# Settings that are written only where they are used.
_LATER = ("dedupe",)


@dataclass
class Prepared:
    """Where the prepared data is, and what it is like."""

    folder: Path
    stats: dict[str, Any]

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of the tokenizer."""
        return self.folder / "tokenizer"

    @property
    def train_prefix(self) -> Path:
        """Prefix of the training `.bin/.idx`."""
        return self.folder / "train_text_document"

    @property
    def valid_prefix(self) -> Path:
        """Prefix of the held-out `.bin/.idx`."""
        return self.folder / "valid_text_document"

    @property
    def valid_text(self) -> Path:
        """The held-out documents as jsonl."""
        return self.folder / "valid.jsonl"

    @property
    def files(self) -> list[Path]:
        """What must be there, beside the tokenizer."""
        prefixes = (self.train_prefix, self.valid_prefix)
        return [Path(f"{p}.{end}") for p in prefixes for end in ("bin", "idx")] + [self.valid_text]


@dataclass(frozen=True)
class Request:
    """What `prepare` was asked for.

    `sources` and `tokenizer` are found again under another path by what they hold.
    """

    sources: str | Sequence[str | Path]
    tokenizer: str | Path | None
    settings: dict[str, Any]

    def note(self, tallies: dict[str, Tally]) -> dict[str, Any]:
        """What is kept with the data, to find it again and to say what is not in it."""
        settings = {"sources": self._paths(), "tokenizer": self._tokenizer_path(), **self.settings}
        return {
            "settings": settings,
            "fingerprint": self.fingerprint(),
            **{name: tally.as_dict() for name, tally in tallies.items()},
        }

    def fingerprint(self) -> str | None:
        """The hash of what the sources hold."""
        return fingerprint(self.sources)

    def find(self, out: Path) -> Prepared | None:
        """The finished data in `out`, if any; `UsageError` when it is of another request."""
        done = _read_note(out)
        if done is None:
            return None
        self.require_same(out, done)
        return _open(out, done)

    def require_same(self, out: Path, done: dict[str, Any]) -> None:
        """`UsageError` when a `note` in `out` is of another request."""
        before = done["settings"]
        if before.get("sources") != self._paths() and not self._same_sources(done):
            raise _other(out, "sources", before.get("sources"), self._paths())
        if before.get("tokenizer") != self._tokenizer_path() and not self._same_tokenizer(
            out, before
        ):
            raise _other(out, "tokenizer", before.get("tokenizer"), self._tokenizer_path())
        for key in self.settings | {key: None for key in _LATER}:
            value = self.settings.get(key)
            if before.get(key, _DEFAULTS.get(key)) != value:
                raise _other(out, key, before.get(key), value)

    def _paths(self) -> str | list[str]:
        return self.sources if isinstance(self.sources, str) else [str(s) for s in self.sources]

    def _tokenizer_path(self) -> str | None:
        return None if self.tokenizer is None else str(self.tokenizer)

    def _same_sources(self, done: dict[str, Any]) -> bool:
        known = done.get("fingerprint")
        return known is not None and known == fingerprint(self.sources)

    def _same_tokenizer(self, out: Path, before: dict[str, Any]) -> bool:
        """Whether the tokenizer under another path is the one that was copied here."""
        if self.tokenizer is None or not before.get("tokenizer"):
            return False  # one of them is trained
        files = [Path(f) / "tokenizer.json" for f in (self.tokenizer, out / "tokenizer")]
        return all(f.is_file() for f in files) and read_json(files[0]) == read_json(files[1])


def find_prepared(out: Path) -> Prepared | None:
    """The finished data in `out`, if any, whatever was asked for."""
    done = _read_note(out)
    return None if done is None else _open(out, done)


def _read_note(out: Path) -> dict[str, Any] | None:
    if not (out / PREPARED).is_file():
        return None
    done = read_json(out / PREPARED)
    if not isinstance(done, dict) or not isinstance(done.get("settings"), dict):
        raise UsageError(f"{out / PREPARED}: damaged; delete it to prepare the data again")
    return done


def _open(out: Path, done: dict[str, Any]) -> Prepared:
    _check_files(out, done.get("files", {}))
    return Prepared(out, done["stats"])


def save_note(ready: Prepared, note: dict[str, Any]) -> None:
    """Write `prepared.json`, which makes the folder complete."""
    first = {key: note[key] for key in ("settings", "fingerprint")}
    whole = {
        **first,
        "stats": ready.stats,
        "files": {p.name: p.stat().st_size for p in ready.files},
        **note,
    }
    write_atomic(ready.folder / PREPARED, json.dumps(whole, indent=1) + "\n")


def _other(out: Path, key: str, before: Any, now: Any) -> UsageError:
    return UsageError(f"{out}: was prepared with `{key}` = {before}, not {now}; use another folder")


def _check_files(out: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        path = out / name
        if not path.is_file() or path.stat().st_size != size:
            raise UsageError(
                f"{path}: missing or not {size} bytes long; delete {PREPARED} to prepare it again"
            )


def fingerprint(sources: str | Sequence[str | Path]) -> str | None:
    """A short hash of what the source files hold, whatever their paths; None for `stdlib`.

    Evenly spaced blocks stand for long files. Files of one content in another order of sources
    count as other data, as the order of documents follows it.
    """
    if isinstance(sources, str):
        return None
    digest = hashlib.sha256()
    for source in map(Path, sources):
        inside = [f.path for f in walk(source, Tally())] if source.is_dir() else [source]
        for path in inside:
            digest.update(_sample(path))
    return digest.hexdigest()[:16]


def _sample(path: Path) -> bytes:
    """A hash of the size and of up to sixteen blocks of a file; empty if it cannot be read."""
    if not path.is_file():  # opening a pipe would wait for ever
        return b""
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            step = max(_BLOCK_BYTES, (size - _BLOCK_BYTES) // (_MAX_BLOCKS - 1))
            for at in range(0, size, step):
                file.seek(at)
                digest.update(file.read(_BLOCK_BYTES))
    except OSError:
        return b""
    return digest.digest()
