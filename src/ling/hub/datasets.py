"""Text data sets of the Hugging Face hub, through `huggingface_hub`: its cache, tokens, mirrors."""

from __future__ import annotations

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


def is_dataset(source: str) -> bool:
    """Whether a source names a data set on the hub."""
    return source.startswith(PREFIX)


def local_source(source: str) -> str:
    """A source on this machine: a data set of the hub is fetched, others are as they are."""
    return str(dataset_folder(source)) if is_dataset(source) else source


def dataset_folder(source: str) -> Path:
    """The local folder of `hf://datasets/ORG/NAME[@REVISION][/PATTERN]`, fetched where it is not.

    Files of text only. Raises `UsageError` for a name that is none or has no such files,
    `RunError` when the hub cannot be reached.
    """
    found = _NAME.fullmatch(source.removeprefix(PREFIX))
    if found is None:
        raise UsageError(f"`{source}`: expected `{PREFIX}ORG/NAME[@REVISION][/PATTERN]`")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    pattern = found["pattern"]
    try:
        folder = snapshot_download(
            found["repository"],
            repo_type="dataset",
            revision=found["revision"],
            allow_patterns=_TEXT if pattern is None else [pattern],
            ignore_patterns=["*.py", "*.pkl", "*.bin", "*.pt"],
        )
    except RepositoryNotFoundError:
        raise UsageError(
            f"{source}: the hub has no such data set, or it needs a token (`hf auth login`)"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as err:
        raise RunError(f"{source}: could not fetch it: {first_line(err)}") from None
    if not any(p.is_file() for p in Path(folder).rglob("*")):
        raise UsageError(f"{source}: no text files (parquet, jsonl, json, txt) in this data set")
    return Path(folder)
