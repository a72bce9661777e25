"""First weights that copy: what the wired heads do before any training, and what is refused."""

from __future__ import annotations

import random

import pytest
import torch

from ling.errors import UsageError
from ling.model.attention import DenseAttend
from ling.model.copying import copying_model
from ling.model.ling import from_config
from ling.presets import preset

NANO = preset("ling-nano")


def repeated(cfg, rows=8, seed=0):
    """Rows of random pieces and the same pieces in another order; where a token is known."""
    rng = random.Random(seed)
    for _ in range(rows):
        pieces = [rng.sample(range(cfg.vocab_size), 6) for _ in range(5)]
        again = rng.sample(pieces, len(pieces))
        ids = [token for piece in (*pieces, *again) for token in piece]
        yield torch.tensor(ids), [30 + 6 * piece + k for piece in range(5) for k in range(1, 6)]


@torch.no_grad()
def copied(model):
    """Of the known tokens the share that is among the ten most likely of the vocabulary."""
    hits, count = 0, 0
    for ids, known in repeated(model.config):
        attend = DenseAttend(torch.tensor([0, len(ids)], dtype=torch.int32))
        logits = model.logits(model(ids, torch.arange(len(ids)), attend))
        best = logits.topk(10).indices
        hits += sum(int(ids[i] in best[i - 1]) for i in known)
        count += len(known)
    return hits / count


def test_what_follows_in_the_context_is_likely_before_any_training():
    assert copied(from_config(NANO, seed=0)) < 0.03
    for seed in (0, 1, 42):
        assert copied(copying_model(NANO, seed)) > 0.1


def test_the_first_layer_attends_to_the_token_before():
    model = copying_model(NANO, 0)
    seen = {}

    class Watch(DenseAttend):
        def __call__(self, layer, q_THK, k_TGK, v_TGK):
            seen.setdefault(layer, (q_THK[:, 0] @ k_TGK[:, 0].T) / q_THK.shape[-1] ** 0.5)
            return super().__call__(layer, q_THK, k_TGK, v_TGK)

    ids = torch.randperm(NANO.vocab_size, generator=torch.Generator().manual_seed(0))[:200]
    with torch.no_grad():
        model(ids, torch.arange(200), Watch(torch.tensor([0, 200], dtype=torch.int32)))
    shares = seen[0].masked_fill(torch.ones(200, 200).triu(1).bool(), -torch.inf).softmax(-1)
    assert torch.equal(shares.argmax(-1)[1:], torch.arange(199))
    assert shares[:50].diagonal(-1).mean() > 0.6


def test_the_number_of_threads_decides_no_bit():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(copying_model(NANO, 42).state_dict())
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_the_same_seed_gives_the_same_weights():
    a, b, other = (copying_model(NANO, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    head = "lm_head.weight"
    assert not torch.equal(a[head], other[head])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 1}, "two layers"),
        ({"use_qk_norm": False}, "QK-norm"),
        ({"tie_word_embeddings": True}, "a head of its own"),
        ({"partial_rotary_factor": 1.0}, "channels that do not rotate"),
    ],
)
def test_shapes_that_cannot_begin_so_are_refused(change, said):
    with pytest.raises(UsageError, match=said):
        copying_model(NANO.replace(**change), 0)
