"""Parts of several ranks make one checkpoint, which torch reads; each box is written once."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile

import pytest
import torch
import torch.distributed.checkpoint as dcp

from ling.checkpoint.dcp import parts
from ling.checkpoint.dcp.folder import DCPFolder
from ling.checkpoint.dcp.layout import metadata_bytes
from ling.checkpoint.dcp.parts import Held, share, write_part, write_tensors
from ling.checkpoint.raw.shards import Stored

WHOLE = Stored(torch.float32, (6, 4))


def rows(first, count):
    return Held(WHOLE, (first, 0), (count, 4))


def load(folder, into):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(into, checkpoint_id=folder, no_dist=True)
    return into


def test_parts_of_ranks_are_one_tensor(tmp_path):
    value, scalar = torch.randn(6, 4), torch.tensor(3.0)
    step = Held(Stored(torch.float32, ()), (), ())
    ranks = [{"x": rows(0, 4), "step": step}, {"x": rows(4, 2), "step": step}]
    files = share(ranks)
    assert [f.boxes for f in files] == [
        [("x", (0, 0), (4, 4))],
        [("step", (), ()), ("x", (4, 0), (2, 4))],
    ]
    for file, (first, count) in zip(files, ((0, 4), (4, 2)), strict=True):
        own = {"x": value[first : first + count], "step": scalar}
        *pieces, hashes = write_part(file, tmp_path, own)
        assert not any(pieces)
        (hashed,) = hashes.items()
        path = tmp_path / file.file
        assert hashed == (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
        assert path.stat().st_size == file.nbytes
    (tmp_path / ".metadata").write_bytes(metadata_bytes(files[0].tensors, files))
    into = load(tmp_path, {"x": torch.empty(6, 4), "step": torch.empty(())})
    assert torch.equal(into["x"], value)
    assert torch.equal(DCPFolder(tmp_path).tensor("x"), value)
    assert into["step"] == 3


def test_copies_are_shared_out_by_bytes_and_empty_parts_left_out():
    copies = {f"c{i}": Held(Stored(torch.float32, (n,)), (0,), (n,)) for i, n in enumerate((9, 4))}
    ranks = [{**copies, "x": rows(0, 6)}, {**copies, "x": rows(6, 0)}, copies]
    files = share(ranks)
    keys = [[key for key, *_ in f.boxes] for f in files]
    assert keys == [["c0", "x"], ["c1"], []]
    assert list(write_part(files[2], None, {})) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64])
def test_one_process_writes_whole_tensors(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(parts, "_PIECE_BYTES", 64)
    value = torch.arange(60).view(5, 12).T.to(dtype)  # not contiguous
    write_tensors(tmp_path, {"x": value, "none": torch.empty(0, 3)})
    into = load(tmp_path, {"x": torch.empty_like(value), "none": torch.empty(0, 3)})
    assert torch.equal(into["x"], value)


def test_a_writer_can_be_left_between_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_PIECE_BYTES", 16)
    (file,) = share([{"x": rows(0, 6)}])
    writer = write_part(file, tmp_path, {"x": torch.zeros(6, 4)})
    assert [next(writer) for _ in range(3)] == [{}, {}, {}]
    assert (tmp_path / file.file).stat().st_size < file.nbytes
    assert len(list(writer)[-1]) == 1
    assert (tmp_path / file.file).stat().st_size == file.nbytes


def test_an_archive_is_one_that_torch_and_zipfile_read(tmp_path):
    value = torch.randn(5, 7)
    write_tensors(tmp_path, {"x": value})
    (chunk,) = DCPFolder(tmp_path).tensors["x"].chunks.values()
    raw = (tmp_path / "__0_0.distcp").read_bytes()[chunk.begin : chunk.begin + chunk.length]
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert archive.testzip() is None
        assert archive.read("archive/data/0") == value.numpy().tobytes()
    assert torch.equal(torch.load(io.BytesIO(raw), weights_only=True), value)
