"""Rows of samples: whole, isolated, nearly full, and a function of their number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ling.data.conversations.pack import ConversationRows, RowOrder, megatron_packs, row_of
from ling.data.conversations.store import Sample
from ling.data.conversations.supervise import NOT_TRAINED
from ling.data.index_files import IndexFolder
from ling.data.samples import lengthened
from ling.train.batches import make_batch

PAD, SEQ = 0, 32
FIXTURE = Path(__file__).parents[2] / "fixtures" / "training" / "sft_packing.json"


class Store:
    """Samples of these lengths, ids all different; the second half of each is learned."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths, np.int32)
        self._starts = 1 + np.concatenate([[0], np.cumsum(lengths)])

    def __getitem__(self, i):
        ids = np.arange(self._starts[i], self._starts[i + 1])
        return Sample(ids, np.where(np.arange(len(ids)) < len(ids) // 2, NOT_TRAINED, ids))


LENGTHS = np.random.RandomState(0).randint(2, SEQ + 1, 300).tolist()


def rows(packing="best_fit", lengths=LENGTHS, size=None, seed=3, **options):
    store = Store(lengths)
    order = RowOrder(store.lengths, SEQ, seed, packing, **options)
    return ConversationRows(store, order, order.rows(1) if size is None else size, PAD)


def predictions(row):
    counts = row.loss_mask > 0
    return list(zip(row.tokens[counts].tolist(), row.labels[counts].tolist(), strict=True))


@pytest.mark.parametrize("packing", ["best_fit", "off"])
def test_each_epoch_learns_each_trained_token_once_after_its_own_predecessor(packing):
    found = rows(packing)
    store = found.store
    want = {
        (int(i) - 1, int(i))
        for k in range(len(LENGTHS))
        for i in store[k].labels[1:][store[k].labels[1:] != NOT_TRAINED]
    }
    for epoch in range(2):
        first = sum(found.order.rows_in(e) for e in range(epoch))
        count = found.order.rows_in(epoch)
        every = ConversationRows(store, found.order, first + count, PAD)
        got = [p for i in range(first, first + count) for p in predictions(every[i])]
        assert len(got) == len(set(got))
        assert set(got) == want


def test_samples_are_whole_and_documents_of_their_own():
    found = rows()
    for i in range(len(found)):
        row, samples = found[i], found.order.samples(i)
        ends = np.cumsum([LENGTHS[k] for k in samples])
        assert ends[-1] <= SEQ
        assert row.borders.tolist() == ends.tolist()
        assert (row.tokens[ends[-1] :] == PAD).all()
        assert not row.loss_mask[ends - 1].any()
        batch = make_batch([row], isolate_documents=True)
        assert batch.mask_BS[0].tolist() == row.loss_mask.tolist()  # borders cost nothing
        assert (batch.positions_T[ends[:-1]] == 0).all()


def test_padding_is_below_two_percent_of_real_lengths():
    lengths = (np.random.RandomState(1).lognormal(5, 0.8, 3000).astype(int) + 20).clip(max=2048)
    store = Store(lengths.tolist())
    order = RowOrder(store.lengths, 2048, 1, "best_fit")
    assert ConversationRows(store, order, order.rows(1), PAD).padding < 0.02


def test_a_row_is_a_function_of_its_number_and_epochs_differ(tmp_path):
    one = rows(size=1000)
    two = rows(size=1000, index=IndexFolder(tmp_path), content="x")
    for i in (0, 7, 500, 999, 3):  # in any order, from files or not
        assert one.order.samples(i).tolist() == two.order.samples(i).tolist()
        assert one[i].tokens.tolist() == two[i].tokens.tolist()
    again = rows(size=1000, index=IndexFolder(tmp_path), content="x")
    assert again[999].tokens.tolist() == one[999].tokens.tolist()
    per_epoch = one.order.rows_in(0)
    assert one[0].tokens.tolist() != one[per_epoch].tokens.tolist()
    assert rows(seed=4)[0].tokens.tolist() != one[0].tokens.tolist()
    with pytest.raises(IndexError):
        one[1000]


def test_rows_of_a_part_of_an_epoch():
    order = rows().order
    assert order.rows(2) == order.rows_in(0) + order.rows_in(1)
    assert order.rows(1.5) == order.rows_in(0) + round(order.rows_in(1) / 2)


def test_rows_of_one_sample_are_as_long_as_it_and_padded_in_a_batch():
    found = rows("off")
    samples = [found[i] for i in range(4)]
    assert sorted(len(found[i].tokens) for i in range(300)) == sorted(LENGTHS)
    batch = make_batch(samples, isolate_documents=True)
    longest = max(len(s.tokens) for s in samples)
    assert batch.tokens_BS.shape == (4, longest)
    assert batch.mask_BS.sum() == sum(s.loss_mask.sum() for s in samples)
    for k, sample in enumerate(samples):
        have = len(sample.tokens)
        assert batch.tokens_BS[k, :have].tolist() == sample.tokens.tolist()
        assert not batch.mask_BS[k, have:].any()
        if have < longest:  # padding is a document of its own
            assert batch.positions_T[k * longest + have] == 0
    assert lengthened(samples[0], len(samples[0].tokens)) is samples[0]


# ---- the original's packing --------------------------------------------------------------------


def test_packs_of_the_original():
    data = json.loads(FIXTURE.read_text("utf-8"))
    width = data["seq_length"]
    packs = list(megatron_packs([s["token_count"] for s in data["samples"]], width))
    assert len(packs) == data["packed_unique"]
    for want in data["packed"]:
        samples = [_sample(data["samples"][k]) for k in packs[want["index"] % len(packs)]]
        row = row_of(samples, width, data["pad_id"], isolated=False)
        assert row.tokens.tolist() == want["tokens"]
        assert row.loss_mask.tolist() == want["loss_mask"]
        labels = np.where(row.loss_mask > 0, row.labels, NOT_TRAINED)
        assert labels.tolist() == want["labels"]
        assert not row.documents.any()


def _sample(given):
    ids = np.array(given["input_ids"])
    learned = [False, *map(bool, given["loss_mask"][:-1])]  # its mask is that of the next tokens
    return Sample(ids, np.where(learned, ids, NOT_TRAINED))


def test_the_originals_packing_takes_no_over_long_sample_and_drops_an_unfinished_pack():
    assert list(megatron_packs([5, 40, 5], 9)) == [[0]]  # 10 ids exactly: the last is lost
    assert list(megatron_packs([40, 3, 3], 9)) == []
    assert len(rows("megatron", lengths=[3])) == 0
