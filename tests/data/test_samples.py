from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ling.data.index_files import IndexFolder
from ling.data.indexed import _HEADER, MAGIC, IndexedDataset, IndexedWriter
from ling.data.samples import GPTSamples, RowsInOrder
from ling.errors import DataError


@pytest.fixture
def dataset(tmp_path):
    """Makes a dataset of the given documents."""

    def make(documents, name="x") -> IndexedDataset:
        with IndexedWriter(tmp_path / name, np.int32) as writer:
            for document in documents:
                writer.add_document(document)
        return IndexedDataset(tmp_path / name)

    return make


def test_samples_equal_megatron(fixtures):
    want = json.loads((fixtures / "training" / "indexed_dataset.json").read_text())
    data = IndexedDataset(fixtures / "training" / "indexed" / "toy_text_document")
    got = GPTSamples(
        data,
        seq_length=want["sequence_length"],
        num_samples=want["num_samples"],
        seed=want["random_seed"],
        eod=want["eod"],
    )
    assert got.document_index.tolist() == want["document_index"]
    assert got.sample_index.tolist() == want["sample_index"]
    assert got.shuffle_index.tolist() == want["shuffle_index"]
    for i, sample in enumerate(want["samples"]):
        for key in ("tokens", "labels", "loss_mask"):
            assert getattr(got[i], key).tolist() == sample[key]


def test_an_epoch_has_every_token_once_with_the_next_as_its_label(dataset):
    data = dataset([range(100 * k, 100 * k + 10) for k in range(4)])
    rows = GPTSamples(data, seq_length=3, num_samples=13, seed=1)
    assert len(rows) == 13  # (40 - 1) // 3
    seen = [int(t) for i in range(13) for t in rows[i].tokens]
    assert len(set(seen)) == 39
    for i in range(13):
        row = rows[i]
        assert row.labels[:-1].tolist() == row.tokens[1:].tolist()
        assert row.loss_mask.tolist() == [1, 1, 1]


def test_order_depends_on_the_seed_alone(dataset):
    data = dataset([range(k, k + 9) for k in range(20)])

    def tokens(seed):
        rows = GPTSamples(data, seq_length=5, num_samples=50, seed=seed)
        return [rows[i].tokens.tolist() for i in range(50)]

    assert tokens(3) == tokens(3) != tokens(4)


def test_end_of_a_document_gives_no_loss_unless_asked_for(dataset):
    data = dataset([[1, 2, 9], [3, 9]])
    rows = GPTSamples(data, seq_length=4, num_samples=1, seed=0, eod=9)
    assert rows[0].loss_mask.tolist() == [float(t != 9) for t in rows[0].tokens]
    rows = GPTSamples(data, seq_length=4, num_samples=1, seed=0, eod=9, eod_mask_loss=False)
    assert rows[0].loss_mask.tolist() == [1, 1, 1, 1]


def test_a_part_of_the_documents_is_read_alone(dataset):
    data = dataset([[k] * 8 for k in range(6)])
    rows = GPTSamples(data, seq_length=4, num_samples=12, seed=0, documents=(2, 4))
    assert {int(t) for i in range(len(rows)) for t in rows[i].tokens} == {2, 3}
    with pytest.raises(DataError, match="documents 4 to 7 of 6"):
        GPTSamples(data, seq_length=4, num_samples=1, seed=0, documents=(4, 7))


def test_no_tokens_are_an_error(dataset):
    with pytest.raises(DataError, match=r"x\.bin.*0 tokens for 1 rows of 4"):
        GPTSamples(dataset([[], []]), seq_length=4, num_samples=1, seed=0)


def test_epochs_bound_the_rows_and_how_often_a_token_is_read(dataset):
    data = dataset([range(10 * k, 10 * k + 10) for k in range(4)])

    def read(epochs, **options):
        rows = GPTSamples(data, seq_length=3, num_samples=100, seed=1, epochs=epochs, **options)
        seen = [int(t) for i in range(len(rows)) for t in rows[i].tokens]
        return len(rows), max(map(seen.count, seen))

    assert read(1.0) == (13, 1)  # (40 - 1) // 3
    assert read(0.5) == (6, 1)
    assert read(2.0) == (26, 2)
    assert GPTSamples(data, seq_length=3, num_samples=9, seed=1).epochs_of(20) == 1.5


def test_the_order_in_files_is_that_in_memory(dataset, tmp_path):
    data = dataset([range(k, k + 9) for k in range(20)])
    options = {"seq_length": 5, "num_samples": 70, "seed": 3}
    plain = GPTSamples(data, **options)
    for _ in range(2):
        kept = GPTSamples(data, **options, index=IndexFolder(tmp_path / "index"), content="a")
        for name in ("document_index", "shuffle_index", "sample_index"):
            assert (getattr(kept, name) == getattr(plain, name)).all()
    other = GPTSamples(data, **options, index=IndexFolder(tmp_path / "index"), content="b")
    assert (other.document_index == plain.document_index).all()
    assert len(list((tmp_path / "index").glob("*/index.json"))) == 2


def test_rows_in_order_read_no_more_than_they_are_asked_for(dataset):
    data = dataset([range(7), range(7, 20), [], range(20, 31)])
    options = {"seq_length": 4, "eod": None, "eod_mask_loss": True}
    every = RowsInOrder(data, **options)
    assert [every[i].labels.tolist()[-1] for i in range(len(every))] == [4, 8, 12, 16, 20, 24, 28]
    few = RowsInOrder(data, **options, rows=2)
    assert len(few) == 2
    assert (few[1].tokens == every[1].tokens).all()
    assert len(RowsInOrder(data, **options, rows=100)) == 7
    assert len(RowsInOrder(dataset([[1], [2]], "y"), **options)) == 0


# ---- memory ------------------------------------------------------------------------------------

MEASURE = """
import re, sys
import numpy as np
from pathlib import Path
from ling.data.index_files import IndexFolder
from ling.data.indexed import IndexedDataset
from ling.data.mixture import Mixture
from ling.data.samples import GPTSamples


def kept():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10


data = IndexedDataset(sys.argv[1])
before = kept()
index = IndexFolder(Path(sys.argv[2]))
rows = GPTSamples(
    data, seq_length=8, num_samples=2 * data.num_tokens // 8 - 9, seed=1, index=index, content="x"
)
mixture = Mixture([rows, rows], [0.7, 0.3], index=index)
got = [int(mixture[i].tokens.sum()) for i in range(0, len(mixture), len(mixture) // 50)]
print(len(data), len(rows), len(mixture), kept() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_no_process_has_an_order_in_its_memory(tmp_path):
    """6M documents of 8 tokens, 12M rows: 190 MB of order, and 120 MB of index."""
    count, length = 6_000_000, 8
    write_wide_index(tmp_path / "wide", count, length)
    run = [sys.executable, "-c", MEASURE, str(tmp_path / "wide"), str(tmp_path / "index")]
    for _ in ("made", "opened"):
        out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        documents, rows, mixed, megabytes = map(int, out.split())
        assert documents == count
        assert rows > 11_000_000
        assert mixed > rows
        assert megabytes < 60


def write_wide_index(prefix, count, length):
    """An index of equally long documents over a file without blocks on the disk."""
    with open(f"{prefix}.idx", "wb") as file:
        file.write(_HEADER.pack(MAGIC, 1, 8, count, count + 1))
        file.write(np.full(count, length, "<i4").tobytes())
        file.write((np.arange(count, dtype="<i8") * length * 2).tobytes())
        file.write(np.arange(count + 1, dtype="<i8").tobytes())
    with open(f"{prefix}.bin", "wb") as file:
        file.truncate(count * length * 2)
