"""Reading torch distributed checkpoints as data: their metadata pickle runs no code.

`.metadata` may name torch's own metadata classes and nothing else; tensors are read with
`weights_only`.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from ..errors import DCPError

# The exact classes that torch 2.13 writes into `.metadata`.
_ALLOWED = {
    ("torch.distributed.checkpoint.metadata", name)
    for name in (
        "Metadata",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "MetadataIndex",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
}
_DTYPES = {
    str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)
}
MAX_METADATA_BYTES = 1 << 30


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _ALLOWED:
            raise DCPError(f".metadata: class {module}.{name} is not allowed")
        return super().find_class(module, name)


class SafeReader(FileSystemReader):
    """torch's reader, with a metadata unpickler that admits torch's metadata classes only."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / ".metadata"
        try:
            if path.stat().st_size > MAX_METADATA_BYTES:
                raise DCPError(f"{path}: larger than {MAX_METADATA_BYTES} bytes")
            metadata = _MetadataUnpickler(io.BytesIO(path.read_bytes())).load()
        except DCPError as err:
            raise DCPError(f"{path.parent}: {err}") from None
        except OSError as err:
            raise DCPError(f"{path}: {err.strerror}") from None
        except Exception as err:  # a pickle of anyone's making can fail in any way
            raise DCPError(f"{path}: damaged ({type(err).__name__})") from None
        if not isinstance(metadata, Metadata):
            raise DCPError(f"{path}: not checkpoint metadata")
        for info in (metadata.storage_data or {}).values():
            name = str(getattr(info, "relative_path", ""))
            if not name or "/" in name or name in (".", ".."):
                raise DCPError(f"{path}: data file `{name}` lies outside the folder")
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata


def tensor_metadata(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Names, shapes and dtypes of the tensors in a checkpoint folder."""
    state = SafeReader(folder).read_metadata().state_dict_metadata
    return {k: v for k, v in state.items() if isinstance(v, TensorStorageMetadata)}


def read_tensors(folder: Path, into: dict[str, Tensor]) -> None:
    """Fill the given tensors from the checkpoint, by name."""
    try:
        dcp.load(into, storage_reader=SafeReader(folder), no_dist=True)
    except DCPError:
        raise
    except Exception as err:  # torch wraps what a damaged file causes in many types
        reason = str(err).strip().splitlines()[-1] if str(err).strip() else type(err).__name__
        raise DCPError(f"{folder}: cannot be read: {reason[:200]}") from None
