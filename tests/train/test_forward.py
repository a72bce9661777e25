from __future__ import annotations

import pytest
import torch

from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.forward import LingForTraining


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_one_call_gives_the_main_layers_and_each_mtp_layer_on_the_one_before(layers):
    ling = from_config(preset("ling-tiny").replace(num_nextn_predict_layers=layers), seed=0)
    network = LingForTraining(ling)
    tokens = [torch.randint(384, (12,)) for _ in range(layers + 1)]
    positions, attend = torch.arange(12), DenseAttend([0, 5, 12])
    got = network(tokens, positions, attend)
    assert len(got) == network.num_mtp_layers + 1 == layers + 1
    want = ling(tokens[0], positions, attend)
    assert torch.equal(got[0], want)
    for j in range(layers):
        want = ling.mtp(j, tokens[j + 1], want, positions, attend)
        assert torch.equal(got[j + 1], want)


def test_the_trace_sees_every_routed_layer_once():
    class Trace:
        def __init__(self):
            self.layers = []

        def record(self, layer, logits_TE, ids_TA):
            self.layers.append(layer)

    network, trace = LingForTraining(from_config(preset("ling-tiny"), seed=0)), Trace()
    tokens = [torch.randint(384, (4,))] * 2
    network(tokens, torch.arange(4), DenseAttend([0, 4]), trace)
    assert trace.layers == [1, 2, 3]


def test_what_scores_the_hidden_states_runs_inside_the_call():
    network, inside = LingForTraining(from_config(preset("ling-tiny"), seed=0)), []
    network.register_forward_hook(lambda *_: inside.append(False))

    def score(hidden):
        assert inside == []
        return (network.head(hidden[0]).sum(), torch.stack(list(hidden)).sum())

    tokens = [torch.randint(384, (4,))] * 2
    found = network(tokens, torch.arange(4), DenseAttend([0, 4]), None, score)
    hidden = network(tokens, torch.arange(4), DenseAttend([0, 4]))
    assert torch.equal(found[0], network.head(hidden[0]).sum())
    assert torch.equal(found[1], torch.stack(list(hidden)).sum())


def test_its_parameters_are_those_of_the_model():
    ling = from_config(preset("ling-tiny"), seed=0)
    network = LingForTraining(ling)
    assert [id(p) for p in network.parameters()] == [id(p) for p in ling.parameters()]
    assert network.head is ling.lm_head
