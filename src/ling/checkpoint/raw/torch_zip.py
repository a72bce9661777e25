"""The files that `torch.save` makes of one tensor: where the values lie, and such a file in parts.

A file is a ZIP archive without compression: `data.pkl` says type, shape and strides, `data/<key>`
holds the values. Read by name and number only, written so that `torch.load` and `zipfile` read it.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ...errors import DCPError
from .pickle_data import Global, Record, read_pickle

Read = Callable[[int, int], bytes]
"""Bytes of an archive by position and number; fails when they are not there."""

_STORAGES = {
    Global("torch", f"{name}Storage"): dtype
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = Global("torch._utils", "_rebuild_parameter")
_ALLOWED = {*_STORAGES, _REBUILD, _PARAMETER, Global("collections", "OrderedDict")}
_MAX_DIRECTORY, _MAX_PICKLE = 1 << 20, 1 << 20
_ALIGNMENT = 64
_CHECKSUM_BEHIND = 1 << 3


class Placed(NamedTuple):
    """A tensor in an archive: element [0, ...] is at byte `position`; strides in elements."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    position: int


def find_members(read: Read, length: int) -> dict[str, tuple[int, int]]:
    """Position and size of every member of a ZIP archive, without the common folder name.

    Raises `DCPError` for compressed members and for anything outside the archive.
    """
    try:
        return _members(read, length)
    except struct.error:
        raise DCPError("damaged archive") from None


def _members(read: Read, length: int) -> dict[str, tuple[int, int]]:
    if length < 22:
        raise DCPError(f"{length} bytes, too short for a tensor")
    end = length - 22
    ending = _signed(b"PK\5\6", read(end, 22))
    count, size, start = struct.unpack("<10xH2I2x", ending)
    if count == 0xFFFF or 0xFFFFFFFF in (size, start):
        locator = _signed(b"PK\6\7", _inside(read, length, end - 20, 20))
        (record,) = struct.unpack("<8xQ4x", locator)
        wide = _signed(b"PK\6\6", _inside(read, length, record, 56))
        count, size, start = struct.unpack("<32xQQQ", wide)
    if size > _MAX_DIRECTORY or count * 46 > size:
        raise DCPError(f"damaged archive: directory of {size} bytes")
    directory = _inside(read, length, start, size)
    found, at = {}, 0
    for _ in range(count):
        head = struct.unpack("<4s6H3I5H2I", _signed(b"PK\1\2", directory[at : at + 46]))
        name_length, extra_length, comment_length = head[10:13]
        name = directory[at + 46 : at + 46 + name_length].decode("utf-8", "replace")
        extra = directory[at + 46 + name_length : at + 46 + name_length + extra_length]
        packed, plain, local = _wide(extra, head[8], head[9], head[16])
        at += 46 + name_length + extra_length + comment_length
        if head[4] != 0 or packed != plain:
            raise DCPError(f"damaged archive: member {name[:40]!r} is compressed")
        opening = _signed(b"PK\3\4", _inside(read, length, local, 30))
        sizes = struct.unpack("<26xHH", opening)
        begin = local + 30 + sum(sizes)
        if begin + plain > length:
            raise DCPError(f"damaged archive: member {name[:40]!r} ends outside")
        found[name.partition("/")[2]] = (begin, plain)
    return found


def _signed(sign: bytes, part: bytes) -> bytes:
    """A part of an archive that begins with its sign."""
    if not part.startswith(sign):
        raise DCPError("damaged archive")
    return part


def _inside(read: Read, length: int, at: int, count: int) -> bytes:
    if not 0 <= at <= length - count:
        raise DCPError("damaged archive: points outside")
    return read(at, count)


def _wide(extra: bytes, *values: int) -> list[int]:
    """Sizes and offset of a member; those of 4 GiB and more are in its ZIP64 field."""
    result, at = list(values), 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            inner = at + 4
            for i in (1, 0, 2):  # unpacked size, packed size, offset
                if result[i] == 0xFFFFFFFF:
                    (result[i],) = struct.unpack_from("<Q", extra, inner)
                    inner += 8
        at += 4 + size
    return result


def place_tensor(read: Read, length: int) -> Placed:
    """Where the one tensor of an archive is; `DCPError` when it is anything else."""
    members = find_members(read, length)
    if "data.pkl" not in members or members["data.pkl"][1] > _MAX_PICKLE:
        raise DCPError("damaged archive: no tensor in it")
    if "byteorder" in members and read(*members["byteorder"]) != b"little":
        raise DCPError("tensor in big-endian byte order")
    value = read_pickle(read(*members["data.pkl"]), _ALLOWED.__contains__)
    try:
        if isinstance(value, Record) and value.kind == _PARAMETER:
            value = value.args[0]
        return _placed(value, members)
    except (AttributeError, TypeError, ValueError, IndexError, KeyError):
        raise DCPError("damaged archive: no plain tensor in it") from None


def _placed(value: Any, members: dict[str, tuple[int, int]]) -> Placed:
    storage, offset, shape, strides = value.args[:4]
    kind, key = storage.args[1], storage.args[2]
    if not isinstance(kind, Global) or not isinstance(key, str):  # hashing other things may crash
        raise ValueError
    dtype, (begin, size) = _STORAGES[kind], members[f"data/{key}"]
    numbers = (offset, *shape, *strides)
    if value.kind != _REBUILD or storage.kind is not None or len(shape) != len(strides):
        raise ValueError
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers):
        raise ValueError
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and (last + 1) * dtype.itemsize > size:
        raise DCPError("damaged archive: the tensor is larger than its values")
    return Placed(dtype, tuple(shape), tuple(strides), begin + offset * dtype.itemsize)


# ---- writing -----------------------------------------------------------------------------------


def archive_around(
    dtype: torch.dtype, shape: tuple[int, ...], data: memoryview | None
) -> tuple[bytes, bytes]:
    """What stands before and after the values of a contiguous tensor in its archive.

    Without `data` the checksum is missing, the lengths are right. The tensor has less than 4 GiB.
    """
    checksum = 0 if data is None else zlib.crc32(data)
    head, directory = _before(dtype, shape, checksum)
    return head, _after(dtype, shape, len(head), directory)


class StreamedArchive:
    """An archive whose checksum comes behind the values, so that these are read once.

    Written are `head`, the values, and `tail` of their CRC-32: `nbytes` in all.
    """

    def __init__(self, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self._dtype, self._shape = dtype, shape
        self.head, _ = _before(dtype, shape, 0, _CHECKSUM_BEHIND)
        values = dtype.itemsize * torch.Size(shape).numel()
        self.nbytes = len(self.head) + values + len(self.tail(0))

    def tail(self, checksum: int) -> bytes:
        """What follows the values."""
        values = self._dtype.itemsize * torch.Size(self._shape).numel()
        behind = struct.pack("<4s3I", b"PK\7\x08", checksum, values, values)
        _, directory = _before(self._dtype, self._shape, checksum, _CHECKSUM_BEHIND)
        at = len(self.head) + len(behind)
        return behind + _after(self._dtype, self._shape, at, directory)


def _before(
    dtype: torch.dtype, shape: tuple[int, ...], checksum: int, flags: int = 0
) -> tuple[bytes, bytes]:
    """All up to the values, and the directory that comes after them."""
    nbytes = dtype.itemsize * torch.Size(shape).numel()
    assert nbytes < 0xFFFF0000
    small = {"data.pkl": _data_pickle(dtype, shape), "byteorder": b"little", "version": b"3\n"}
    head, directory = b"", b""
    for name, content in small.items():
        local, entry = _headers(name, zlib.crc32(content), len(content), len(head))
        head, directory = head + local + content, directory + entry
    padding = -(len(head) + 30 + len("archive/data/0")) % _ALIGNMENT
    padding += _ALIGNMENT if 0 < padding < 4 else 0
    local, entry = _headers("data/0", checksum, nbytes, len(head), padding, flags)
    return head + local, directory + entry


def _after(dtype: torch.dtype, shape: tuple[int, ...], at: int, directory: bytes) -> bytes:
    """The directory and what says where it is: `at`, and the size of the values further."""
    start = at + dtype.itemsize * torch.Size(shape).numel()
    return directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 4, 4, len(directory), start, 0)


def _headers(
    name: str, checksum: int, size: int, at: int, padding: int = 0, flags: int = 0
) -> tuple[bytes, bytes]:
    """Local header and directory entry of a member stored as it is."""
    raw = f"archive/{name}".encode()
    # Version 2.0, stored, 1 January 1980: the bytes depend on the content alone.
    common = (20, flags, 0, 0, 0x21)
    extra = struct.pack("<2sH", b"FB", padding - 4) + b"Z" * (padding - 4) if padding else b""
    here = (0, 0, 0) if flags else (checksum, size, size)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", *common, *here, len(raw), len(extra)) + raw + extra
    known = (checksum, size, size, len(raw), 0, 0, 0, 0, 0, at)
    return local, struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, *common, *known) + raw


def _data_pickle(dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    strides = tuple(torch.empty(shape, device="meta").stride())
    storage = next(kind for kind, d in _STORAGES.items() if d == dtype)
    buffer = io.BytesIO()
    _TensorPickler(buffer, storage, shape, strides).dump(_Tensor())
    return buffer.getvalue()


class _Tensor:
    """Stands for the tensor in the pickle that describes it."""


class _Storage:
    """Stands for its values."""


class _TensorPickler(pickle.Pickler):
    def __init__(
        self, file: io.BytesIO, storage: Global, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        super().__init__(file, protocol=2)
        self.storage, self.shape, self.strides = storage, shape, strides

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        numel = torch.Size(self.shape).numel()
        return ("storage", getattr(torch, self.storage.name), "0", "cpu", numel)

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, _Tensor):
            return NotImplemented
        parts: tuple[Any, ...] = (_Storage(), 0, self.shape, self.strides, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, parts
