"""`.metadata` of a torch distributed checkpoint, read as data: no class of it is ever called."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...errors import DCPError
from ...files.guarded import inside, pread_into
from ..raw.pickle_data import Global, Record, read_pickle
from ..raw.shards import Stored

MAX_METADATA_BYTES = 256 << 20


_MAX_DIM = 1 << 40


_META, _PLAN = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.planner"


_MCORE = "megatron.core.dist_checkpointing.strategies.torch"


_ALLOWED = {
    *(
        Global(_META, name)
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
    ),
    # Megatron keeps the plans of all ranks beside its metadata.
    *(
        Global(_PLAN, name)
        for name in (
            "SavePlan",
            "WriteItem",
            "WriteItemType",
            "TensorWriteData",
            "BytesIOWriteData",
        )
    ),
    Global(_MCORE, "MCoreMetadata"),
    Global(_MCORE, "MCoreSavePlan"),
    Global("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    # Python 3.11.2, Debian 12's, pickles a member of an enum as `getattr(its class, its name)`.
    Global("builtins", "getattr"),
    Global("torch", "Size"),
    Global("torch.serialization", "_get_layout"),
    Global("collections", "OrderedDict"),
    Global("collections", "defaultdict"),
    Global("pathlib", "PosixPath"),
    Global("pathlib._local", "PosixPath"),
}


_DTYPES = {
    Global("torch", str(d).removeprefix("torch.")): d
    for d in vars(torch).values()
    if isinstance(d, torch.dtype)
}


class Chunk(NamedTuple):
    """A box of a tensor, and the archive that holds it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    begin: int
    length: int


class DCPTensor(NamedTuple):
    """Type, shape and chunks (by their offsets) of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: dict[tuple[int, ...], Chunk]

    @property
    def nbytes(self) -> int:
        return Stored(self.dtype, self.shape).nbytes


def read_metadata(path: Path) -> dict[str, DCPTensor]:
    fd = open_data_file(path)
    try:
        size = os.fstat(fd).st_size
        if size > MAX_METADATA_BYTES:
            raise DCPError(f".metadata: {size} bytes, the limit is {MAX_METADATA_BYTES}")
        data = read_bytes(fd, 0, size)
    finally:
        os.close(fd)
    try:
        return _tensors(read_pickle(data, lambda g: g in _ALLOWED or g in _DTYPES))
    except DCPError as err:
        raise DCPError(f".metadata: {err}") from None
    except (AttributeError, TypeError, ValueError, IndexError, KeyError, RecursionError):
        raise DCPError(".metadata: not the metadata of a checkpoint") from None


def _tensors(metadata: Record) -> dict[str, DCPTensor]:
    infos = {}
    for index, info in (metadata.field("storage_data") or {}).items():
        key, offset = index.field("fqn"), index.field("offset")
        # Only text: hashing a tuple of a million tuples would end the process, here and below.
        if isinstance(key, str) and offset is not None:
            infos[key, _size(offset)] = info
    found = {}
    for key, record in metadata.field("state_dict_metadata").items():
        if record.kind.name != "TensorStorageMetadata" or not isinstance(key, str):
            continue  # bytes: state that is not a tensor is never read
        chunks = {}
        for part in record.field("chunks"):
            offsets, sizes = _size(part.field("offsets")), _size(part.field("sizes"))
            chunks[offsets] = _chunk(offsets, sizes, infos.get((key, offsets)), key)
        properties = record.field("properties").state
        dtype = properties["dtype"] if isinstance(properties, dict) else properties[0]
        if not isinstance(dtype, Global):
            raise ValueError
        found[key] = DCPTensor(_DTYPES[dtype], _size(record.field("size")), chunks)
    return found


def _chunk(
    offsets: tuple[int, ...], sizes: tuple[int, ...], info: Record | None, key: str
) -> Chunk:
    if info is None:
        raise DCPError(f"no data for the chunk at {list(offsets)} of `{key[:200]}`")
    if info.field("transform_descriptors"):
        raise DCPError(f"`{key[:200]}` is compressed, which is not supported")
    file, begin, length = (info.field(k) for k in ("relative_path", "offset", "length"))
    if not isinstance(file, str) or not file or "/" in file or "\0" in file or file in (".", ".."):
        raise DCPError(f"data file {file!r:.200} is outside the folder")
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (begin, length)):
        where = f"offset {begin!r:.50}, length {length!r:.50}"
        raise DCPError(f"the chunk at {list(offsets)} of `{key[:200]}` is in no file: {where}")
    return Chunk(offsets, sizes, file, begin, length)


def _size(value: Any) -> tuple[int, ...]:
    """A `torch.Size` as its numbers."""
    (numbers,) = value.args
    numbers = tuple(numbers)
    if len(numbers) > 8 or any(type(n) is not int or not 0 <= n < _MAX_DIM for n in numbers):
        raise DCPError("impossible shape")
    return numbers


def check_tensor(key: str, tensor: DCPTensor, file_sizes: Mapping[str, int]) -> None:
    """Chunks lie inside the tensor and inside their files, and could fill it."""
    filled = 0
    for chunk in tensor.chunks.values():
        if len(chunk.sizes) != len(tensor.shape) or any(
            o + n > d for o, n, d in zip(chunk.offsets, chunk.sizes, tensor.shape, strict=True)
        ):
            raise DCPError(f"tensor `{key[:200]}` has a chunk outside its shape")
        nbytes = Stored(tensor.dtype, chunk.sizes).nbytes
        if chunk.begin + chunk.length > file_sizes[chunk.file]:
            raise DCPError(
                f"{chunk.file} has {file_sizes[chunk.file]} bytes, tensor `{key[:200]}` should end "
                f"at {chunk.begin + chunk.length}"
            )
        if nbytes > chunk.length:
            raise DCPError(f"tensor `{key[:200]}` has a chunk larger than its data")
        filled += nbytes
    if filled != tensor.nbytes:
        raise DCPError(f"the chunks of tensor `{key[:200]}` do not fill its shape")


def open_data_file(path: Path) -> int:
    """Descriptor of a regular file; a fifo does not block."""
    try:
        fd = os.open(inside(path.parent, path.name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or "impossible name"
        raise DCPError(f"{path.name}: {reason}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DCPError(f"{path.name}: not a regular file")
    return fd


def read_bytes(fd: int, at: int, count: int) -> bytes:
    """`count` bytes of a data file; `DCPError` where it has not that many."""
    data = bytearray(count)
    read_into(fd, memoryview(data), at)
    return bytes(data)


def read_into(fd: int, target: memoryview, at: int) -> None:
    """Fill `target` from a data file; `DCPError` where it has not that many bytes."""
    try:
        done = pread_into(fd, target, at)
    except OSError as err:
        raise DCPError(f"cannot be read: {err.strerror}") from None
    if done < len(target):
        raise DCPError("data file ends early")
