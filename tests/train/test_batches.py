"""From token files to micro-batches: documents, positions, and ids that the model does not have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runs import write_tokens

from ling.data.indexed import IndexedDataset
from ling.data.samples import GPTSamples, Sample, sample_of
from ling.errors import DataError
from ling.train.batches import Batch, BatchReader, make_batch, run_data_folder

EOD = 3


def batch_of(*rows, isolate=True, eod_mask_loss=False):
    samples = [sample_of(np.array(row), EOD, eod_mask_loss=eod_mask_loss) for row in rows]
    return make_batch(samples, isolate_documents=isolate)


def test_batch_of_isolated_documents_equals_a_scan_for_the_end_of_document():
    rng, eod = np.random.RandomState(0), 3
    ids = rng.randint(0, 6, (4, 33))
    ids[0, 32], ids[1, 31], ids[2, 0] = eod, eod, eod  # at both edges of a row
    rows = [sample_of(row, eod, eod_mask_loss=False) for row in ids]
    batch = make_batch(rows, isolate_documents=True)
    ended = (batch.tokens_BS == eod).long()
    assert torch.equal(batch.documents_BS, ended.cumsum(1) - ended)
    assert torch.equal(batch.mask_BS, 1.0 - ended)


def test_positions_and_borders_are_those_of_rows():
    batch = batch_of([1, 3, 2, 4], [5, 6, 7, 8], isolate=False)
    assert batch.documents_BS is None
    assert batch.tokens_BS.tolist() == [[1, 3, 2], [5, 6, 7]]
    assert batch.labels_BS.tolist() == [[3, 2, 4], [6, 7, 8]]
    assert batch.positions_T.tolist() == [0, 1, 2] * 2
    assert batch.cu_seqlens == [0, 3, 6]
    assert batch.mask_BS.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_positions_and_borders_are_those_of_isolated_documents():
    batch = batch_of([3, 1, 3, 2, 4, 4], [5, 6, 7, 8, 3, 1])
    assert batch.documents_BS.tolist() == [[0, 1, 1, 2, 2], [0, 0, 0, 0, 0]]
    assert batch.positions_T.tolist() == [0, 0, 1, 0, 1, 0, 1, 2, 3, 4]
    assert batch.cu_seqlens == [0, 1, 3, 5, 10]
    # The end of a document does not predict the start of the next one.
    assert batch.mask_BS.tolist() == [[0, 1, 0, 1, 1], [1, 1, 1, 1, 0]]


def test_no_loss_behind_an_end_of_document_where_it_is_masked():
    batch = batch_of([1, 3, 2, 4], isolate=False, eod_mask_loss=True)
    assert batch.mask_BS.tolist() == [[1, 0, 1]]


def test_what_shorter_rows_are_padded_with_is_not_real():
    rows = [
        Sample(np.arange(n), np.arange(n), np.ones(n, "f4"), np.array([n]), padding=p)
        for n, p in ((4, 1), (2, 0))
    ]
    assert make_batch(rows, isolate_documents=True).real_BS.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    ids = torch.zeros(2, 3)
    assert Batch(ids, ids, ids).real_BS.tolist() == [[1, 1, 1]] * 2


def test_a_batch_moves_with_all_its_tensors():
    device = torch.device("meta")
    batch = batch_of([1, 3, 2])
    batch.counts, batch.shares_BS, batch.extra = torch.ones(1), batch.real_BS, {"x": torch.ones(1)}
    moved = batch.to(device)
    tensors = (moved.tokens_BS, moved.labels_BS, moved.mask_BS, moved.documents_BS)
    more = (moved.positions_T, moved.counts, moved.shares_BS, moved.extra["x"])
    assert all(t.device == device for t in (*tensors, *more))
    assert moved.cu_seqlens == [0, 2]  # from there it could not be told any more
    assert batch_of([1, 3, 2], isolate=False).to(device).documents_BS is None


# ---- files -------------------------------------------------------------------------------------


def opened(prefix, rows):
    return GPTSamples(IndexedDataset(prefix), seq_length=16, num_samples=rows, seed=1)


def test_an_id_without_a_row_is_found_in_its_batch(tmp_path):
    write_tokens(tmp_path / "text", top=300, tokens=400)
    samples = opened(tmp_path / "text", 24)
    whole = BatchReader(samples, False, 300, "").read(0, 24)
    largest = int(torch.maximum(whole.tokens_BS.max(), whole.labels_BS.max()))
    reader = BatchReader(samples, False, largest, files="here.bin")
    words = f"here.bin: token id {largest} is outside the vocabulary of {largest}"
    with pytest.raises(DataError, match=words):
        reader.read(0, 24)
    assert BatchReader(samples, False, largest + 1, "").read(0, 24).tokens_BS.shape == (24, 16)


def test_micro_batches_are_rows_by_number(tmp_path):
    write_tokens(tmp_path / "text")
    reader = BatchReader(opened(tmp_path / "text", 8), False, 300, "")
    whole = reader.read(0, 6)
    for first in (0, 2, 4):
        part = reader.read(first, 2)
        assert torch.equal(part.tokens_BS, whole.tokens_BS[first : first + 2])
        assert torch.equal(part.labels_BS, whole.labels_BS[first : first + 2])


def test_a_runs_own_data_is_in_its_folder(tmp_path):
    assert run_data_folder(tmp_path) == tmp_path / "data"
