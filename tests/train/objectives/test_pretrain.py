"""The pre-training objective: what is predicted from where, and how the losses add up."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ling.data.samples import sample_of
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.batches import Batch, make_batch
from ling.train.forward import WHOLE_ROWS, LingForTraining
from ling.train.loss import RoutingLoss, roll_left
from ling.train.objectives.pretrain import Pretraining, scored

TINY = preset("ling-tiny")


def predict(network, batch, trace=None):
    found = []
    scored(network, batch, lambda predictions: tuple(found.extend(predictions) or ()), trace)
    return found


def losses_of(model, batch):
    named = Pretraining(mtp_weight=0.1, z_coef=0).losses(LingForTraining(model), batch).named
    return {name: float(value.detach()) for name, value in named.items()}


# ---- targets -----------------------------------------------------------------------------------


class Recorded:
    """Stands in for a network of `num_mtp_layers`; keeps what it is called with."""

    context = WHOLE_ROWS

    def __init__(self, num_mtp_layers):
        self.num_mtp_layers = num_mtp_layers

    def __call__(self, tokens, positions_T, attend, trace, score):
        self.tokens, self.positions, self.borders = tokens, positions_T, attend.cu_seqlens
        return score([torch.zeros(len(tokens[0]), 4)] * len(tokens))


@pytest.mark.parametrize("isolate", [False, True])
def test_layer_j_predicts_the_token_j_places_further_in_its_row_and_document(isolate):
    eod, length = 3, 9
    ids = np.random.RandomState(0).randint(4, 50, (2, length + 1))
    ids[0, 2], ids[0, 3], ids[1, 6] = eod, eod, eod
    rows = [sample_of(row, eod, eod_mask_loss=False) for row in ids]
    batch, network = make_batch(rows, isolate_documents=isolate), Recorded(2)
    predictions = predict(network, batch)
    assert len(predictions) == 3
    for j, p in enumerate(predictions):
        tokens, targets, mask = [], [], []
        for row in ids:
            documents = np.cumsum(row == eod) - (row == eod)
            for t in range(length):
                inside = t + j < length
                tokens.append(row[t + j] if inside else 0)
                targets.append(row[t + j + 1] if inside else 0)
                # The token that is predicted belongs to the document of the one that predicts.
                same = inside and documents[t + j + 1] == documents[t]
                mask.append(float(same if isolate else inside))
        assert network.tokens[j].tolist() == tokens
        assert p.targets_T.tolist() == targets
        assert p.mask_T.tolist() == mask
    assert network.borders == batch.cu_seqlens
    assert torch.equal(network.positions, batch.positions_T)


def test_without_mtp_layers_there_is_the_main_loss_alone():
    model = from_config(TINY.replace(num_nextn_predict_layers=0), seed=0)
    ids = torch.randint(384, (2, 9))
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(2, 8))
    found = Pretraining(mtp_weight=0.5, z_coef=0).losses(LingForTraining(model), batch)
    assert list(found.named) == ["loss"]
    assert torch.equal(found.total, found.named["loss"])


# ---- losses ------------------------------------------------------------------------------------


def test_the_total_weighs_mtp_loss_and_z_loss():
    network = LingForTraining(from_config(TINY.replace(num_nextn_predict_layers=2), seed=0))
    ids = torch.randint(384, (2, 9))
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(2, 8))
    trace = RoutingLoss(TINY.num_experts, train=True)
    scores = [(p, network.ling.logits(p.hidden_TD)) for p in predict(network, batch, trace)]
    main, *mtp = [
        torch.nn.functional.cross_entropy(s[p.mask_T > 0], p.targets_T[p.mask_T > 0])
        for p, s in scores
    ]
    found = Pretraining(mtp_weight=0.3, z_coef=0.01).losses(network, batch)
    torch.testing.assert_close(found.named["loss"], main)
    torch.testing.assert_close(found.named["mtp_loss"], torch.stack(mtp).mean())
    torch.testing.assert_close(found.z_loss, trace.z_loss())
    torch.testing.assert_close(found.total, main + 0.3 * sum(mtp) / 2 + 0.01 * trace.z_loss())
    assert found.total.requires_grad
    assert list(found.counts) == [1, 2, 3, 4]
    assert all(int(c.sum()) == 16 * TINY.num_experts_per_tok for c in found.counts.values())


def test_losses_of_a_batch_equal_upstream_without_the_row_leak(fixtures):
    from safetensors.torch import load_file

    from ling.checkpoint.load import load_model

    path = fixtures / "model" / "tiny_fp32"
    ids = load_file(path / "io.safetensors")["batch2.input_ids"]
    want = json.loads((path / "expected.json").read_text())["case_batch2_labels_are_input_ids"]
    labels = roll_left(ids)
    mask = torch.ones_like(ids).float()
    mask[:, -1] = 0
    losses = losses_of(load_model(path), Batch(ids, labels, mask))
    assert losses["loss"] == pytest.approx(want["main_loss"], abs=5e-5)
    assert losses["mtp_loss"] == pytest.approx(want["mtp_loss_without_row_leak"], abs=5e-5)


def test_rows_and_isolated_documents_do_not_see_each_other():
    model = from_config(preset("ling-tiny"), seed=0)
    eod, tail = 9, [5, 6, 7, 8, 1, 2]
    losses = []
    for head in ([1, 2, 3, 4], [7, 7, 7, 7]):
        row = sample_of(np.array([*head, eod, *tail]), eod, eod_mask_loss=True)
        batch = make_batch([row], isolate_documents=True)
        assert batch.cu_seqlens == [0, 5, 10]
        batch.mask_BS[:, :5] = 0  # only the second document counts
        losses.append(losses_of(model, batch))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_several_mtp_layers_are_logged_one_by_one():
    model = from_config(TINY.replace(num_nextn_predict_layers=2), seed=0)
    ids = np.random.RandomState(0).randint(4, 50, (2, 9))
    batch = make_batch(
        [sample_of(row, None, eod_mask_loss=False) for row in ids], isolate_documents=False
    )
    named = losses_of(model, batch)
    assert list(named) == ["loss", "mtp_loss", "mtp_loss_1", "mtp_loss_2"]
    assert named["mtp_loss"] == pytest.approx((named["mtp_loss_1"] + named["mtp_loss_2"]) / 2)
    assert named["mtp_loss_1"] != named["mtp_loss_2"]
