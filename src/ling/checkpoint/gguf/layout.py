"""The head of a GGUF file in bytes, and the place of every tensor after it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..raw.gguf_header import ALIGNMENT, KIND_IDS, MAGIC, Kind, nbytes, padded
from .metadata import ARCH
from .names import GGUFSpec

_VERSION = 3
_QUANTISATION_VERSION = 2
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


class Place(NamedTuple):
    """Where a tensor goes in the file, and as what."""

    shape: tuple[int, ...]
    kind: Kind
    offset: int


class Layout(NamedTuple):
    """Everything of a file but the tensors' values."""

    head: bytes
    places: dict[str, Place]
    size: int


def general_metadata(name: str, file_type: int) -> dict[str, Any]:
    """The keys that every model file has."""
    return {
        "general.architecture": ARCH,
        "general.type": "model",
        "general.name": name,
        "general.file_type": file_type,
        "general.quantization_version": _QUANTISATION_VERSION,
    }


def lay_out(
    metadata: Mapping[str, Any], specs: Mapping[str, GGUFSpec], kinds: Mapping[str, Kind]
) -> Layout:
    """Head and places; ints become u32, floats f32, lists arrays of strings or i32."""
    head = MAGIC + struct.pack("<IQQ", _VERSION, len(specs), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items())
    offsets, offset = {}, 0
    for name, spec in specs.items():
        offsets[name] = offset
        sizes = struct.pack(f"<I{len(spec.shape)}Q", len(spec.shape), *reversed(spec.shape))
        head += _string(name) + sizes + struct.pack("<IQ", KIND_IDS[kinds[name].name], offset)
        offset += padded(nbytes(spec.shape, kinds[name]))
    head += bytes(padded(len(head)) - len(head))
    places = {n: Place(s.shape, kinds[n], len(head) + offsets[n]) for n, s in specs.items()}
    assert len(head) % ALIGNMENT == 0
    return Layout(head, places, len(head) + offset)


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
        return struct.pack(f"<IIQ{len(value)}i", _ARRAY, _INT32, len(value), *value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    kind, form = {bool: (_BOOL, "?"), int: (_UINT32, "I"), float: (_FLOAT32, "f")}[type(value)]
    return struct.pack("<I" + form, kind, value)
