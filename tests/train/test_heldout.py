"""Held-out loss on a network whose scores are a table: of a token, and of the one after it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ling.config.recipe import DataConfig
from ling.data.indexed import IndexedDataset, IndexedWriter
from ling.train.forward import WHOLE_ROWS
from ling.train.heldout import HeldOut, held_out_loss

V, EOD = 12, 3


class Tables(nn.Module):
    """Stands in for `LingForTraining`: hidden states are the scores themselves."""

    def __init__(self, mtp_layers=1):
        super().__init__()
        self.context = WHOLE_ROWS
        self.num_mtp_layers = mtp_layers
        self.main, self.mtp = (nn.Parameter(torch.randn(V, V)) for _ in range(2))
        self.head = nn.Linear(V, V, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, tokens, positions_T, attend, trace, score):
        hidden = [self.main[tokens[0]]]
        if self.num_mtp_layers:
            hidden.append(self.mtp[tokens[1]])
        return score(hidden)

    @property
    def ling(self):
        return self

    def logits(self, hidden_TD):
        return hidden_TD


@pytest.fixture
def ids(tmp_path):
    ids = torch.randint(V, (50,)).numpy()
    ids[[7, 20, 21]] = EOD
    with IndexedWriter(tmp_path / "valid", np.int32) as writer:
        writer.add_document(ids[:30])
        writer.add_document(ids[30:])
    return ids.tolist()


def measured(network, tmp_path, rows=99, eod=EOD, length=10, **data):
    cfg = DataConfig(prefix=["x"], seq_length=length, **data)
    return held_out_loss(network, IndexedDataset(tmp_path / "valid"), cfg, rows=rows, eod=eod)


def nats(table, token, target):
    return -float(table.detach().double()[token].log_softmax(-1)[target])


@pytest.mark.parametrize("eod_mask_loss", [True, False])
def test_losses_are_means_over_the_tokens_that_count(ids, tmp_path, eod_mask_loss):
    network = Tables()
    got = measured(network, tmp_path, eod_mask_loss=eod_mask_loss)
    main, mtp, agree = [], [], []
    for start in range(0, 40, 10):  # the last ten tokens lack the one that they would predict
        row = ids[start : start + 11]
        for t in range(10):
            if not (eod_mask_loss and row[t] == EOD):
                main.append(nats(network.main, row[t], row[t + 1]))
            if t < 9 and not (eod_mask_loss and row[t + 1] == EOD):
                mtp.append(nats(network.mtp, row[t + 1], row[t + 2]))
            if t < 8:
                first = int(network.mtp[row[t + 1]].argmax())
                agree.append(first == int(network.main[row[t + 1]].argmax()))
    assert got.tokens == len(main)
    assert got.loss == pytest.approx(np.mean(main), rel=1e-5)
    assert got.mtp_loss == pytest.approx(np.mean(mtp), rel=1e-5)
    assert got.mtp_agreement == pytest.approx(np.mean(agree))
    assert got.perplexity == pytest.approx(math.exp(np.mean(main)), rel=1e-4)


def test_mtp_that_is_right_agrees_always(ids, tmp_path):
    network = Tables()
    with torch.no_grad():
        network.mtp.copy_(network.main)
    assert measured(network, tmp_path).mtp_agreement == 1


def test_only_so_many_rows_are_read(ids, tmp_path):
    network = Tables()
    one = measured(network, tmp_path, rows=1, eod_mask_loss=False)
    assert one.tokens == 10
    want = [nats(network.main, ids[t], ids[t + 1]) for t in range(10)]
    assert one.loss == pytest.approx(np.mean(want), rel=1e-5)


def test_isolated_documents_do_not_predict_the_next_one(ids, tmp_path):
    network = Tables()
    got = measured(network, tmp_path, isolate_documents=True, eod_mask_loss=False)
    want = [nats(network.main, ids[t], ids[t + 1]) for t in range(40) if ids[t] != EOD]
    assert got.tokens == len(want)
    assert got.loss == pytest.approx(np.mean(want), rel=1e-5)
    whole = measured(network, tmp_path, isolate_documents=True, eod=None)
    assert whole.tokens == 40  # without the id there are no borders


def test_a_model_without_mtp_layers_has_no_number_for_them(ids, tmp_path):
    got = measured(Tables(mtp_layers=0), tmp_path)
    assert (got.mtp_loss, got.mtp_agreement) == (None, None)
    assert measured(Tables(), tmp_path, rows=0) == HeldOut(0.0, 0, None, None)
