from __future__ import annotations

import json
import os

import numpy as np
import pytest

from ling.data.indexed import IndexedDataset, IndexedWriter, token_dtype
from ling.errors import DataError, UsageError


@pytest.fixture
def prefix(tmp_path):
    """Four documents of 2 to 5 tokens."""
    with IndexedWriter(tmp_path / "x", np.int32) as writer:
        for k in range(4):
            writer.add_document(range(10 * k, 10 * k + k + 2))
    return tmp_path / "x"


def test_written_index_equals_megatron(fixtures, tmp_path):
    want = json.loads((fixtures / "training" / "indexed_dataset.json").read_text())
    with IndexedWriter(tmp_path / "toy", np.int32) as writer:
        for document in want["documents"]:
            writer.add_document(document)
    assert (tmp_path / "toy.idx").read_bytes().hex() == want["idx_hex"]
    source = fixtures / "training" / "indexed" / "toy_text_document.bin"
    assert (tmp_path / "toy.bin").read_bytes() == source.read_bytes()


def test_documents_are_read_whole_and_in_part(prefix):
    data = IndexedDataset(prefix)
    assert (len(data), data.num_tokens) == (4, 2 + 3 + 4 + 5)
    assert data.get(2).tolist() == [20, 21, 22, 23]
    assert data.get(3, 1).tolist() == [31, 32, 33, 34]
    assert data.get(3, 2, 2).tolist() == [32, 33]
    assert data.get(3, 5, 0).tolist() == []
    for offset, length in ((0, 6), (4, 2), (-1, 1), (2, -1)):
        with pytest.raises(IndexError):
            data.get(3, offset, length)


def test_dtype_is_the_one_megatron_takes(tmp_path):
    assert (token_dtype(65500), token_dtype(65501)) == (np.uint16, np.int32)
    with IndexedWriter(tmp_path / "y", np.uint16) as writer:
        writer.add_document([65535])
        with pytest.raises(DataError, match="an id does not fit uint16"):
            writer.add_document([65536])
    assert IndexedDataset(tmp_path / "y").get(0).tolist() == [65535]


def test_ids_outside_the_vocabulary_are_named(prefix):
    IndexedDataset(prefix).check_ids(35)
    with pytest.raises(DataError, match=r"x\.bin.*token id 34 is outside the vocabulary of 34"):
        IndexedDataset(prefix).check_ids(34)


@pytest.mark.parametrize("damage", ["magic", "short", "pointer", "count", "bin", "length"])
def test_damaged_index_is_refused_before_use(prefix, damage):
    idx = prefix.with_suffix(".idx")
    raw = bytearray(idx.read_bytes())
    if damage == "magic":
        raw[0] ^= 1
    elif damage == "short":
        del raw[-3:]
    elif damage == "count":
        raw[18:26] = (2**62).to_bytes(8, "little")
    elif damage == "length":
        raw[34:38] = (-5).to_bytes(4, "little", signed=True)
    elif damage == "pointer":
        raw[34 + 16 : 34 + 24] = (2**62).to_bytes(8, "little")
    else:
        prefix.with_suffix(".bin").write_bytes(b"12")
    idx.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"x\."):
        IndexedDataset(prefix)


def test_file_that_shrinks_while_open_is_an_error(prefix):
    data = IndexedDataset(prefix)
    os.truncate(prefix.with_suffix(".bin"), 8)
    assert data.get(0).tolist() == [0, 1]
    with pytest.raises(DataError, match="shorter than when it was opened"):
        data.get(1)


def test_failed_writing_leaves_the_old_files(prefix):
    before = {p.name: p.read_bytes() for p in prefix.parent.iterdir()}
    with pytest.raises(DataError), IndexedWriter(prefix, np.int32) as writer:
        writer.add_document([1 << 40])
    assert {p.name: p.read_bytes() for p in prefix.parent.iterdir()} == before


def test_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match=r"x\.bin: cannot write here"),
        IndexedWriter(tmp_path / "file" / "x", np.int32),
    ):
        pass
