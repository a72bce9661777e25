"""Held-out loss is the training loss of the same rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ling.config.recipe import DataConfig
from ling.data.indexed import IndexedDataset, IndexedWriter
from ling.data.samples import RowsInOrder
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.batches import make_batch
from ling.train.forward import LingForTraining
from ling.train.heldout import held_out_loss
from ling.train.objectives.pretrain import Pretraining

EOD = 7


@pytest.mark.parametrize("isolate", [False, True])
@torch.no_grad()
def test_held_out_losses_are_those_of_training(tmp_path, isolate):
    ids = np.random.RandomState(0).randint(8, 300, 400)
    ids[::9] = EOD  # many borders, so that masks matter
    with IndexedWriter(tmp_path / "text", np.uint16) as writer:
        writer.add_document(ids.tolist())
    network = LingForTraining(from_config(preset("ling-tiny"), seed=0)).eval()
    cfg = DataConfig(prefix=["-"], seq_length=96, isolate_documents=isolate)
    dataset = IndexedDataset(tmp_path / "text")
    found = held_out_loss(network, dataset, cfg, rows=1, eod=EOD)
    row = RowsInOrder(dataset, seq_length=96, eod=EOD, eod_mask_loss=True)[0]
    batch = make_batch([row], isolate_documents=isolate)
    trained = Pretraining(0.1, 0.0).losses(network, batch).named
    assert found.loss == pytest.approx(float(trained["loss"]), rel=1e-5)
    assert found.mtp_loss == pytest.approx(float(trained["mtp_loss"]), rel=1e-5)
