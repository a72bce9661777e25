"""Text data sets of the Hugging Face hub, through `huggingface_hub`: its cache, tokens, mirrors."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path

from ..errors import RunError, UsageError
from ..text import first_line

PREFIX = "hf://datasets/"
_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(@(?P<revision>[\w][\w.+-]{0,199}))?(/(?P<pattern>[\w.*?/\[\]-]+))?",
    re.ASCII,
)
# Never code: a data set's own script is not run, and not fetched either.
_TEXT = [
    f"*.{kind}{packed}"
    for kind in ("jsonl", "ndjson", "json", "txt")
    for packed in ("", ".gz", ".zst")
] + ["*.parquet"]
_NEVER = ["*.py", "*.pkl", "*.bin", "*.pt"]


def is_dataset(source: str) -> bool:
    """Whether a source names a data set on the hub."""
    return source.startswith(PREFIX)


def local_source(source: str) -> str:
    """A source on this machine: a data set of the hub is fetched, others are as they are."""
    return str(dataset_folder(source)) if is_dataset(source) else source


def dataset_folder(source: str) -> Path:
    """The local folder of `hf://datasets/ORG/NAME[@REVISION][/PATTERN]`, fetched where it is not.

    Files of text only, or those that match the pattern. Raises `UsageError` for a name that is none
    or has no such files, `RunError` when the hub cannot be reached.
    """
    found = _NAME.fullmatch(source.removeprefix(PREFIX))
    if found is None:
        raise UsageError(f"`{source}`: expected `{PREFIX}ORG/NAME[@REVISION][/PATTERN]`")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    wanted = _TEXT if found["pattern"] is None else [found["pattern"]]
    try:
        snapshot = snapshot_download(
            found["repository"],
            repo_type="dataset",
            revision=found["revision"],
            allow_patterns=wanted,
            ignore_patterns=_NEVER,
        )
        folder = _chosen(Path(snapshot), wanted)
    except RepositoryNotFoundError:
        raise UsageError(
            f"{source}: the hub has no such data set, or it needs a token (`hf auth login`)"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as err:
        raise RunError(f"{source}: could not fetch it: {first_line(err)}") from None
    if folder is None:
        raise UsageError(f"{source}: no text files (parquet, jsonl, json, txt) in this data set")
    return folder


def _chosen(snapshot: Path, wanted: list[str]) -> Path | None:
    """A folder with the files of a snapshot that match, None without any.

    The snapshot has the files of all earlier calls. Where there are others among them, the folder
    is one of links, beside the snapshots, under a name that follows from the files.
    """
    from huggingface_hub.utils import filter_repo_objects

    there = sorted(p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file())
    names = list(filter_repo_objects(there, allow_patterns=wanted, ignore_patterns=_NEVER))
    if not names or names == there:
        return snapshot if names else None
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    folder = snapshot.parents[1] / "chosen" / snapshot.name / digest
    for name in names:
        _link(folder / name, snapshot / name)
    return folder


def _link(link: Path, file: Path) -> None:
    """Several processes may do this at once."""
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(os.path.relpath(file, link.parent))
