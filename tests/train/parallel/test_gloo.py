"""Gradients added up by one exchange (that training is the same with it: test_layouts.py)."""

from __future__ import annotations

import torch
import torch.distributed as dist

from ling.train.parallel.gloo import ExchangeAndAdd


def test_a_rank_gets_the_sum_of_what_all_have_for_it(monkeypatch):
    all_have = torch.arange(18.0).view(3, 3, 2)  # by sender, then by receiver
    rank = 1
    monkeypatch.setattr(dist, "get_world_size", lambda group: 3)
    monkeypatch.setattr(
        dist,
        "all_to_all_single",
        lambda out, sent, group: out.copy_(all_have[:, rank].flatten()),
    )
    comm = ExchangeAndAdd()
    out = comm.allocate((2,), dtype=torch.float32, device=torch.device("cpu"))
    comm(out, all_have[rank].flatten(), None, None)
    assert out.tolist() == all_have[:, rank].sum(0).tolist()
