"""The parts of a pipeline: stages that together are the network, under its names."""

from __future__ import annotations

import pytest
import torch

from ling.model.attention import DenseAttend
from ling.model.ling import Ling, from_config
from ling.presets import preset
from ling.train.forward import LingForTraining
from ling.train.loss import RoutingLoss
from ling.train.parallel.stage import AddLoss, Stage, StageNetwork, own_embedding, part_of

TINY = preset("ling-tiny")
STAGES = [range(0, 1), range(1, 3), range(3, 3)]


@pytest.mark.parametrize("tied", [False, True])
def test_the_names_of_all_stages_are_those_of_the_model_each_once(tied):
    cfg = TINY.replace(tie_word_embeddings=tied)
    with torch.device("meta"):
        whole = Ling(cfg)
    names = [name for i in range(3) for name in part_of(whole, STAGES, [i]).state_dict()]
    assert sorted(names) == sorted(whole.state_dict())
    both = part_of(whole, STAGES, [0, 2])
    middle = part_of(whole, STAGES, [1]).state_dict()
    assert set(both.state_dict()) == set(names) - set(middle)
    # Shared, not copied: sharding one shards the other.
    assert both.model.layers[0] is whole.model.layers[0]


def test_a_stage_goes_on_from_the_one_before():
    torch.manual_seed(0)
    whole = from_config(TINY, seed=0)
    length = 12
    tokens = [torch.randint(0, TINY.vocab_size, (length,)) for _ in range(2)]
    attend, positions = DenseAttend([0, length]), torch.arange(length)
    want_trace = RoutingLoss(TINY.num_experts, train=True)
    want = LingForTraining(whole)(tokens, positions, attend, want_trace)
    trace = RoutingLoss(TINY.num_experts, train=True)
    hidden, sent = None, []

    def work(network):
        out = network(tokens, positions, attend, trace)
        sent.append(network.sent)
        return out

    for i in range(3):
        ling = part_of(whole, STAGES, [i])
        if i == 2:
            own_embedding(ling, whole.model.word_embeddings.weight)
            ling.model.word_embeddings.weight = whole.model.word_embeddings.weight
        got = Stage(StageNetwork(ling, is_last=i == 2), i)(hidden, work=work)
        assert (got == ()) == (i < 2)
        hidden = sent[-1]
    for a, b in zip(want, got, strict=True):
        assert torch.equal(a, b)
    assert list(trace.counts) == list(want_trace.counts)
    assert all(torch.equal(trace.counts[i], want_trace.counts[i]) for i in trace.counts)


def test_a_loss_of_a_stage_gets_its_gradient_from_the_states_that_it_sends():
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    loss = torch.randn((), requires_grad=True)
    out = AddLoss.apply(x, 2 * loss)
    assert not out._is_view()
    out.backward(torch.full_like(x, 3))
    assert torch.equal(x.grad, torch.full_like(x, 3))
    assert float(loss.grad) == 2
