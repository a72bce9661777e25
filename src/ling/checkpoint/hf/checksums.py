"""Per-tensor checksums of a model folder: SHA-256 of each tensor's bytes, in `checksums.json`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from ...errors import CheckpointError
from ...files.atomic import write_atomic
from ...files.guarded import inside, loads, read_regular
from .folder import MAX_INDEX_BYTES, SafetensorsFolder

CHECKSUMS = "checksums.json"


def digest(source: SafetensorsFolder, name: str) -> str:
    """SHA-256 of a tensor's bytes as stored."""
    flat = source.tensor(name).reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def write_checksums(folder: Path) -> int:
    """Write the checksums of a folder's tensors; returns how many."""
    source = SafetensorsFolder(folder)
    tensors = {name: digest(source, name) for name in source.weight_map}
    text = json.dumps({"algorithm": "sha256", "tensors": tensors}, indent=1)
    write_atomic(folder / CHECKSUMS, text + "\n")
    return len(tensors)


def check_checksums(folder: Path) -> int:
    """Compare a folder's tensors with its checksums; returns how many, 0 when it has none.

    Raises `CheckpointError` naming the first tensor that differs, or is in one of the two only.
    """
    path = folder / CHECKSUMS
    if not path.exists() and not path.is_symlink():
        return 0
    try:
        found = loads(read_regular(inside(folder, CHECKSUMS), MAX_INDEX_BYTES))
    except (OSError, ValueError) as err:
        raise CheckpointError(f"{path}: {getattr(err, 'strerror', None) or err}") from None
    tensors = found.get("tensors") if isinstance(found, dict) else None
    if not isinstance(tensors, dict) or found.get("algorithm") != "sha256":
        raise CheckpointError(f"{path}: no SHA-256 `tensors` here")
    source = SafetensorsFolder(folder)
    for name in sorted(tensors.keys() | source.weight_map.keys()):
        if name not in source or name not in tensors:
            where = CHECKSUMS if name in tensors else "the weights"
            raise CheckpointError(f"{path}: tensor `{name}` is in {where} only")
        if tensors[name] != digest(source, name):
            raise CheckpointError(
                f"{source.path(name)}: tensor `{name}` is not what {CHECKSUMS} describes"
            )
    return len(tensors)
