"""Answers while training are the likeliest tokens, computed once each."""

from __future__ import annotations

import pytest
import torch
from tiny_ling import tiny

from ling.model.attention import DenseAttend
from ling.train.forward import LingForTraining
from ling.train.greedy import answer

PROMPT = [5, 17, 200, 9]


def recomputed(ling, prompt, count, valid=None):
    """The same without a cache."""
    ids = list(prompt)
    for _ in range(count):
        hidden = ling(torch.tensor(ids), torch.arange(len(ids)), DenseAttend([0, len(ids)]))
        scores = ling.logits(hidden[-1])
        ids.append(int((scores if valid is None else scores.masked_fill(~valid, -1e9)).argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("layers", [0, 1])
def test_the_likeliest_tokens_with_a_cache(layers):
    ling = tiny(num_nextn_predict_layers=layers)
    network = LingForTraining(ling)
    found = answer(network, PROMPT, max_tokens=12, stop_ids=())
    assert found == recomputed(ling, PROMPT, 12)
    assert len(set(found)) > 3
    assert network.training


def test_it_ends_behind_a_stop_and_takes_only_ids_with_a_token():
    ling = tiny()
    network = LingForTraining(ling)
    free = answer(network, PROMPT, max_tokens=12, stop_ids=())
    stop = free[4]
    assert answer(network, PROMPT, max_tokens=12, stop_ids={stop}) == free[: free.index(stop) + 1]
    valid = torch.ones(ling.config.vocab_size, dtype=torch.bool)
    valid[free[0]] = False
    masked = answer(network, PROMPT, max_tokens=4, stop_ids=(), valid_V=valid)
    assert masked == recomputed(ling, PROMPT, 4, valid)
    assert masked[0] != free[0]
    assert answer(network, PROMPT, max_tokens=1, stop_ids=()) == free[:1]


def test_dropout_is_off_and_an_error_leaves_the_network_in_training():
    network = LingForTraining(tiny())
    seen = []
    network.register_forward_hook(lambda module, *_: seen.append(module.training))
    answer(network, PROMPT, max_tokens=2, stop_ids=())
    assert seen == [False, False]
    with pytest.raises(IndexError):
        answer(network, [10**6], max_tokens=1, stop_ids=())
    assert network.training
