"""`ling download`: a model's files, complete and verified, or one line that says why not."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Protocol

from ..errors import CheckpointError, RunError, UsageError
from ..files.atomic import stopped
from ..text import nearest
from .files import RemoteFile, needed
from .names import ALIASES, HubName, hub_name, is_hub_name
from .packaged import PACKAGED, packaged_model

_INDEX = "model.safetensors.index.json"
_TOKENIZER = "tokenizer.json"


class Hub(Protocol):
    """What differs between hubs. Methods raise `LingError` only."""

    offline: bool

    def files(self, revision: str | None) -> list[RemoteFile]:
        """The files of the repository; fixes the revision for what follows."""

    def folder(self) -> Path:
        """Where the files of that revision go; may not exist yet."""

    def bytes_here(self, file: RemoteFile) -> int:
        """Bytes of the file that are on the disk already, outside `folder`."""

    def fetch(self, files: list[RemoteFile]) -> None:
        """Put the files into `folder`, going on where an earlier try stopped."""

    def local(self, revision: str | None) -> Path:
        """The folder of an earlier download, without a network."""


def download(
    name: str,
    *,
    hub: str | None = None,
    revision: str | None = None,
    local_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    only: str | None = None,
    weights: bool = True,
    rehash: bool = True,
) -> Path:
    """The folder with the model's files, downloading what is missing.

    The size is printed first and checked against the free space. Everything new is checked by size
    and hash, what was there already by size and, with `rehash`, by hash. `only` is a single file;
    without `weights` it is everything else, of which a tokenizer is needed. A packaged model is
    here already. Raises `UsageError` for what the caller can mend, `RunError` for network, disk and
    wrong bytes.
    """
    if (packaged := packaged_model(name)) is not None:
        _check_no_hub(name, packaged, hub or revision or local_dir or cache_dir)
        return packaged
    target = hub_name(name, hub)
    source = _hub(target, local_dir, cache_dir, offline)
    if source.offline:
        folder = source.local(revision)
        _check_complete(folder, target, only if weights else _TOKENIZER)
        return folder
    files = needed(source.files(revision))
    if only is not None:
        files = [f for f in files if f.name == only]
    needs = only or (".safetensors" if weights else _TOKENIZER)
    if not any(f.name.endswith(needs) for f in files):
        raise CheckpointError(f"{target}: has no {needs.lstrip('.')}; other formats are unsafe")
    if not weights:
        files = [f for f in files if not f.name.endswith(".safetensors")]
    missing = [f for f in files if not f.is_whole(source.folder())]
    if missing:
        _announce(target, missing, source)
        source.fetch(missing)
    checked = files if rehash else missing
    for file in checked:
        if not file.is_whole(source.folder()):
            raise RunError(f"{source.folder() / file.name}: not the {file.size} bytes of the hub")
        file.check_hash(source.folder() / file.name)
    return source.folder()


def _check_no_hub(name: str, folder: Path, given: object) -> None:
    if given is not None:
        raise UsageError(
            f"{name} is a part of ling, not on a hub: it is in {folder}, and `--hub`, "
            "`--revision`, `--local-dir` and `--cache-dir` do not apply"
        )


def resolve_model(
    model: str | Path, *, only: str | None = None, revision: str | None = None
) -> Path:
    """The folder of a model given by path or by name: of one in this package, or of one on a hub,
    which is downloaded on first use.

    What exists on disk wins over a name; `~` is the home folder, and a repository's folder in the
    cache of Hugging Face means its snapshot. Raises `CheckpointError` for what is neither.
    """
    path = Path(model if os.path.exists(model) else os.path.expanduser(model))
    if isinstance(model, Path) or path.exists():
        return _snapshot(path)
    if (packaged := packaged_model(model)) is not None:
        return packaged
    if not is_hub_name(model):
        hint = nearest(model, [*PACKAGED, *ALIASES])
        if "/" in model and not hint:
            hint = "; a model of a hub is written `hf:org/name` or `modelscope:org/name`"
        raise CheckpointError(f"{model}: no such model folder{stopped(Path(model)) or hint}")
    return download(model, revision=revision, only=only, rehash=False)


def resolve_tokenizer(tokenizer: str | Path) -> Path:
    """The folder of a tokenizer given by path or by a model's name; of the model of a hub, what is
    not weights is downloaded on first use. What exists on disk wins over a name."""
    path = Path(tokenizer if os.path.exists(tokenizer) else os.path.expanduser(tokenizer))
    if isinstance(tokenizer, Path) or path.exists():
        return _snapshot(path)
    if (packaged := packaged_model(tokenizer)) is not None:
        return packaged
    if not is_hub_name(tokenizer):
        return _snapshot(path)
    return download(tokenizer, weights=False, rehash=False)


def _snapshot(folder: Path) -> Path:
    """The snapshot in `models--org--name` of the cache, that of `main` if there are several; any
    other folder as it is."""
    snapshots = folder / "snapshots"
    if not folder.name.startswith("models--") or not snapshots.is_dir():
        return folder
    found = sorted(p.name for p in snapshots.iterdir() if p.is_dir())
    main = folder / "refs" / "main"
    chosen = main.read_text("utf-8", "replace").strip() if main.is_file() else ""
    if chosen not in found and len(found) != 1:
        raise CheckpointError(
            f"{folder}: {len(found)} snapshots, and none is marked as `main`; give the folder of "
            f"one in `{snapshots.name}`"
        )
    return snapshots / (chosen if chosen in found else found[0])


def _hub(
    target: HubName, local_dir: str | Path | None, cache_dir: str | Path | None, offline: bool
) -> Hub:
    if local_dir is not None and cache_dir is not None:
        raise UsageError("give `--local-dir` or `--cache-dir`, not both")
    local = None if local_dir is None else Path(local_dir)
    cache = None if cache_dir is None else Path(cache_dir)
    if target.hub == "modelscope":
        from .modelscope import ModelScope

        return ModelScope(target.repository, local, cache, offline)
    from .huggingface import HuggingFace

    return HuggingFace(target.repository, local, cache, offline)


def _announce(target: HubName, files: list[RemoteFile], source: Hub) -> None:
    """Say how much comes, and refuse when the disk cannot hold it."""
    folder = source.folder()
    size = sum(f.size - source.bytes_here(f) for f in files)
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    sizes = f"{len(files)} files, {size / 1e9:.2f} GB"
    print(f"{target}: {sizes}, to {folder} ({free / 1e9:.1f} GB free)", file=sys.stderr)
    if size > free:
        raise RunError(
            f"{target} needs {size / 1e9:.2f} GB, {existing} has {free / 1e9:.2f} GB free; "
            "make room or give another folder"
        )


def _check_complete(folder: Path, target: HubName, only: str | None) -> None:
    """Every file that the index names is there; without a network nothing else can be known."""
    wanted = [only or "config.json"]
    try:
        shards = json.loads((folder / _INDEX).read_bytes())["weight_map"].values()
        wanted += [] if only else sorted({str(s) for s in shards})
    except FileNotFoundError:
        wanted += [] if only else ["model.safetensors"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{folder / _INDEX}: unreadable") from None
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{target}: {missing[0]} is not in {folder} and the network is off; "
            "download once without `--offline` or HF_HUB_OFFLINE"
        )
