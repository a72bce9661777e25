"""Packed files: what is in them, or what is wrong with them."""

from __future__ import annotations

import gzip
import json
import sys

import pytest

from ling.data.corpus import documents
from ling.data.plaintext import read_blocks
from ling.errors import DataError, UsageError

ROWS = "".join(json.dumps({"text": f"{i} some words"}) + "\n" for i in range(5000))


def zstd(data: bytes) -> bytes:
    try:
        from compression import zstd as own
    except ImportError:
        return pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    return own.compress(data)


@pytest.fixture(params=[".gz", ".zst"])
def pack(request):
    return request.param, gzip.compress if request.param == ".gz" else zstd


def test_packed_records_are_read(tmp_path, pack):
    end, compress = pack
    path = tmp_path / f"x.jsonl{end}"
    path.write_bytes(compress(ROWS.encode()))
    assert [d.text for d in documents([path])][::4999] == ["0 some words", "4999 some words"]


def test_several_frames_are_one_file(tmp_path, pack):
    end, compress = pack
    path = tmp_path / f"x.txt{end}"
    path.write_bytes(compress(b"one ") + compress(b"two ") + compress(b"three"))
    assert b"".join(read_blocks(path)) == b"one two three"


def test_a_file_that_was_cut_off_is_named(tmp_path, pack):
    end, compress = pack
    path = tmp_path / f"x.jsonl{end}"
    raw = compress(ROWS.encode())
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=rf"x.jsonl{end}: .*damaged or cut off"):
        list(documents([path]))
    path.write_bytes(raw[:20] + bytes(20) + raw[40:])
    with pytest.raises(DataError, match=rf"x.jsonl{end}"):
        list(documents([path]))


def test_what_unpacks_to_too_much_is_refused(tmp_path, pack):
    end, compress = pack
    path = tmp_path / f"x.txt{end}"
    path.write_bytes(compress(bytes(80 << 20)))
    with pytest.raises(DataError, match="200 times its size"):
        for _ in read_blocks(path):
            pass


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for name in ("compression", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(UsageError, match=r"pip install 'ling\[zstd\]'"):
        list(documents([path]))
