"""Rows of whole documents: nothing cut that fits, every prediction once, padding without loss."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from ling.data.index_files import IndexFolder
from ling.data.indexed import IndexedDataset, IndexedWriter
from ling.data.whole_documents import WholeDocuments
from ling.errors import DataError
from ling.train.batches import make_batch

EOD, SEQ = 0, 16


@pytest.fixture
def dataset(tmp_path):
    """Documents of these lengths: running ids that are all different, then EOD."""

    def make(lengths, name="x"):
        at = 1
        with IndexedWriter(tmp_path / name, np.int32) as writer:
            for length in lengths:
                ids = [*range(at, at + length - 1), EOD] if length else []
                writer.add_document(ids)
                at += length
        return IndexedDataset(tmp_path / name)

    return make


LENGTHS = [*np.random.RandomState(0).randint(0, 14, 60).tolist(), 17, 18, 40, 33, 1, 2]


def opened(data, rows=1, **options):
    settings = {"seq_length": SEQ, "num_samples": rows, "seed": 1, "eod": EOD, **options}
    return WholeDocuments(data, **settings)


def predictions(row):
    """(input, label) pairs that count."""
    counted = row.loss_mask > 0
    return list(zip(row.tokens[counted].tolist(), row.labels[counted].tolist(), strict=True))


def test_every_prediction_inside_a_document_is_made_once_an_epoch(dataset):
    data = dataset(LENGTHS)
    want = Counter()
    for i in range(len(data)):
        ids = data.get(i).tolist()
        want.update(itertools.pairwise(ids))
    rows = opened(data)  # laid out by the epoch: this one is a single group
    assert Counter(p for i in range(len(rows)) for p in predictions(rows[i])) == want
    assert rows.epochs_of(len(rows)) == 1
    two = opened(data, rows=len(rows) + 1)
    again = Counter(p for i in range(len(two)) for p in predictions(two[i]))
    assert again == want + want
    assert [two[i].tokens.tolist() for i in range(len(rows))] == [
        rows[i].tokens.tolist() for i in range(len(rows))
    ]


def test_documents_that_fit_are_whole_and_padding_is_behind_them(dataset):
    rows = opened(dataset(LENGTHS))
    unused = 0
    for i in range(len(rows)):
        row = rows[i]
        ids = [*row.tokens.tolist(), int(row.labels[-1])]
        filled = max(k for k, t in enumerate(ids) if t != EOD) + 1
        filled += filled <= SEQ and ids[filled] == EOD and row.loss_mask[filled - 1] > 0
        unused += SEQ + 1 - filled
        assert not row.loss_mask[filled - 1 :].any()
        assert ids[filled:] == [EOD] * (SEQ + 1 - filled)
        ends = [k for k in range(1, filled) if ids[k] != ids[k - 1] + 1 and ids[k - 1] != EOD]
        assert all(ids[k] == EOD for k in ends)  # only a document of 40, 33 or 18 is cut, alone
        assert not row.loss_mask[row.borders - 1].any()
    assert rows.padding == pytest.approx(unused / (len(rows) * (SEQ + 1)))


def test_pieces_of_a_long_document_share_the_id_at_the_cut(dataset):
    rows = opened(dataset([40]))
    assert len(rows) == 3
    found = sorted(predictions(rows[i]) for i in range(3))
    assert [len(f) for f in found] == [16, 16, 7]
    assert [f[0][0] for f in found] == [1, 17, 33]


def test_isolated_documents_do_not_see_each_other_or_the_padding(dataset):
    rows = opened(dataset([5, 4, 4]))
    row = rows[0]
    assert row.borders.tolist() == sorted({row.borders[0], row.borders[1], 13})
    batch = make_batch([row], isolate_documents=True)
    assert batch.documents_BS[0].tolist()[13:] == [3] * 3
    assert batch.cu_seqlens == [0, *row.borders.tolist(), SEQ]
    assert int(batch.mask_BS.sum()) == 4 + 3 + 3


def test_without_an_end_of_document_the_ends_are_known_all_the_same(dataset):
    rows = opened(dataset([5, 4, 4]), eod=None)
    assert rows[0].loss_mask.sum() == 10
    assert len(rows[0].borders) == 3
    # What follows an end of document is a target only where that is wanted.
    assert opened(dataset([5, 4, 4]), eod_mask_loss=False)[0].loss_mask.sum() == 12


def test_an_order_depends_on_the_seed_and_not_on_the_number_of_rows(dataset, monkeypatch):
    monkeypatch.setattr("ling.data.whole_documents._GROUP", 7)
    data = dataset(LENGTHS)

    def tokens(rows, seed=1, count=50, **options):
        samples = opened(data, rows=rows, seed=seed, **options)
        return [samples[i].tokens.tolist() for i in range(min(count, len(samples)))]

    assert tokens(50) == tokens(200) == tokens(50)
    assert tokens(50, seed=2) != tokens(50)


@pytest.mark.parametrize("group", [7, 1000])
def test_epochs_bound_how_often_a_document_is_read(dataset, monkeypatch, group):
    monkeypatch.setattr("ling.data.whole_documents._GROUP", group)
    data = dataset(LENGTHS)
    for epochs in (1.0, 2.0, 0.5, 1.5):
        rows = opened(data, rows=1000, epochs=epochs)
        seen = Counter(p for i in range(len(rows)) for p in predictions(rows[i]))
        assert max(seen.values()) == np.ceil(epochs)
        assert rows.epochs_of(len(rows)) == pytest.approx(epochs, abs=0.05)
        if epochs == int(epochs):
            assert set(seen.values()) == {epochs}


def test_the_order_is_kept_in_files(dataset, tmp_path):
    data, index = dataset(LENGTHS), IndexFolder(tmp_path / "index")
    plain = opened(data)
    for _ in range(2):
        kept = opened(data, index=index, content="a")
        assert len(kept) == len(plain)
        assert all((kept[i].tokens == plain[i].tokens).all() for i in range(len(plain)))
    assert len(list((tmp_path / "index").glob("*/pieces"))) == 1


def test_documents_without_a_prediction_are_an_error(dataset):
    with pytest.raises(DataError, match=r"x\.bin.*no document has two tokens"):
        opened(dataset([1, 0, 1]))
