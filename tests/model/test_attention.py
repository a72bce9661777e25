from __future__ import annotations

from itertools import pairwise

import torch

from ling.model.attention import Attention, DenseAttend
from ling.model.rope import inverse_frequencies, rotary_tables
from ling.presets import preset


def by_formula(q_THK, k_TGK, v_TGK):
    """Causal attention of one sequence in float64, a query and a head at a time."""
    out = torch.zeros_like(q_THK, dtype=torch.double)
    per_group = q_THK.shape[1] // k_TGK.shape[1]
    for t in range(q_THK.shape[0]):
        for h in range(q_THK.shape[1]):
            keys, values = (x[: t + 1, h // per_group].double() for x in (k_TGK, v_TGK))
            scores = keys @ q_THK[t, h].double() / q_THK.shape[-1] ** 0.5
            out[t, h] = scores.softmax(0) @ values
    return out


def test_packed_sequences_attend_to_themselves_alone():
    q, k, v = (torch.randn(12, heads, 8) for heads in (4, 2, 2))
    for borders in ([0, 12], [0, 4, 8, 12], [0, 1, 1, 5, 12]):  # one, equal, ragged with an empty
        got = DenseAttend(borders)(0, q, k, v)
        parts = [by_formula(q[a:b], k[a:b], v[a:b]) for a, b in pairwise(borders)]
        torch.testing.assert_close(got.double(), torch.cat(parts), atol=1e-5, rtol=1e-5)


def test_no_tokens_give_no_rows():
    q, k, v = (torch.randn(0, heads, 8) for heads in (4, 2, 2))
    assert DenseAttend([0])(0, q, k, v).shape == (0, 4, 8)


class Recorded:
    """Keeps what attention is asked for and answers with the queries."""

    def __call__(self, layer, q_THK, k_TGK, v_TGK):
        self.layer, self.q, self.k, self.v = layer, q_THK, k_TGK, v_TGK
        return q_THK


def test_queries_and_keys_are_normed_then_rotated_and_values_are_neither():
    cfg = preset("ling-tiny")
    module, attend = Attention(cfg), Recorded()
    freq, factor = inverse_frequencies(cfg)
    x, positions = torch.randn(5, cfg.hidden_size), torch.tensor([0, 1, 2, 7, 100])
    out = module(x, rotary_tables(freq, factor, positions, torch.float32), attend, 2)
    qkv = (x @ module.query_key_value.weight.T).unflatten(-1, (-1, cfg.head_dim))
    heads, groups = cfg.num_attention_heads, cfg.num_key_value_heads
    assert attend.layer == 2
    assert attend.q.shape == (5, heads, cfg.head_dim)
    torch.testing.assert_close(attend.v, qkv[:, heads + groups :])
    # A rotation keeps lengths, at position 0 everything, and beyond R the channels themselves.
    root = cfg.head_dim**0.5
    torch.testing.assert_close(attend.q.norm(dim=-1), torch.full((5, heads), root))
    normed = root * qkv / qkv.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(attend.q[0], normed[0, :heads])
    r = cfg.rotary_size
    torch.testing.assert_close(attend.k[..., r:], normed[:, heads : heads + groups, r:])
    assert not torch.allclose(attend.k[1:, :, :r], normed[1:, heads : heads + groups, :r])
    torch.testing.assert_close(out, attend.q.flatten(1) @ module.dense.weight.T)


def test_scores_depend_on_the_distance_of_positions_alone():
    cfg = preset("ling-tiny")
    module, attend = Attention(cfg), Recorded()
    freq, factor = inverse_frequencies(cfg)
    x = torch.randn(6, cfg.hidden_size)
    scores = []
    for start in (0, 40):
        positions = torch.arange(start, start + 6)
        module(x, rotary_tables(freq, factor, positions, torch.float32), attend, 0)
        k = attend.k.repeat_interleave(cfg.num_attention_heads // cfg.num_key_value_heads, 1)
        scores.append(torch.einsum("thk,shk->hts", attend.q, k))
    torch.testing.assert_close(scores[0], scores[1], atol=1e-3, rtol=1e-3)
