from __future__ import annotations

import json

import numpy as np
import pytest

from ling.data.indexed import IndexedDataset, IndexedWriter
from ling.data.samples import GPTSamples, Mixture
from ling.errors import DataError, UsageError


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


def test_mixture_keeps_its_shares(dataset):
    parts = [
        GPTSamples(dataset([[token] * 2000], name), seq_length=4, num_samples=400, seed=0)
        for name, token in (("a", 1), ("b", 2))
    ]
    mixture = Mixture(parts, [3, 1])
    first = [int(mixture[i].tokens[0]) for i in range(100)]
    assert (first.count(1), first.count(2)) == (75, 25)
    assert len(Mixture(parts, [3, 1], 10)) == 10


def test_mixture_ends_where_a_source_has_no_row_left(dataset):
    rows = [
        GPTSamples(dataset([[1] * n], f"{n}"), seq_length=4, num_samples=1, seed=0)
        for n in (41, 401)
    ]
    assert [len(r) for r in rows] == [10, 100]
    assert len(Mixture(rows, [1, 1])) in (20, 21)


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, float("nan")], [1, -1]])
def test_weights_that_make_no_mixture_are_refused(dataset, weights):
    part = GPTSamples(dataset([range(9)]), seq_length=4, num_samples=1, seed=0)
    with pytest.raises(UsageError, match="weights"):
        Mixture([part, part], weights)
