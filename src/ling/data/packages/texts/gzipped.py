"""Members that are gzip files themselves, unpacked within the limit on members."""

from __future__ import annotations

import zlib

from ....errors import DataError
from ..archive import MAX_MEMBER_BYTES, Member


def unpacked(member: Member) -> str:
    """The text of a gzip or dictzip file; `DataError` when it is damaged or too large."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        data = unpacker.decompress(member.data, MAX_MEMBER_BYTES)
    except zlib.error as err:
        raise DataError(f"{member.name} is damaged ({err})") from None
    if not unpacker.eof:
        raise DataError(f"{member.name} is cut off, or larger than {MAX_MEMBER_BYTES} bytes")
    return data.decode("utf-8", "replace")
