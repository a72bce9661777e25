"""One copy of a token per rank: what comes back, and how many bytes travel. Ranks are threads."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from ling.model.moe import Experts
from ling.ops import routing_map
from ling.ops.reference import route
from ling.presets import preset
from ling.train.parallel import copies, experts
from ling.train.parallel.copies import OneCopyExperts
from ling.train.parallel.experts import ParallelExperts


class Ranks:
    """Runs a function on each of some ranks at once; `bytes` is what all of them exchanged."""

    def __init__(self, monkeypatch, size):
        self.size, self.bytes, self.parts = size, 0, [[] for _ in range(size)]
        self.barrier, self.here = threading.Barrier(size, timeout=60), threading.local()
        for module in (copies, experts):
            monkeypatch.setattr(module, "exchanged", self.exchanged)
        monkeypatch.setattr(
            experts.dist,
            "all_to_all_single",
            lambda out, x, group: out.copy_(self.exchanged(x, [1] * size, [1] * size, group)),
        )
        monkeypatch.setattr(
            experts,
            "distribute_tensor",
            lambda p, mesh, placements, src_data_rank: p.chunk(size)[self.here.rank].clone(),
        )

    def exchanged(self, x, sent, received, group):
        self.parts[self.here.rank] = x.split(sent)
        self.barrier.wait()
        out = torch.cat([parts[self.here.rank] for parts in self.parts])
        assert [len(parts[self.here.rank]) for parts in self.parts] == received
        if self.barrier.wait() == 0:
            self.bytes += sum(part.nbytes for parts in self.parts for part in parts)
        self.barrier.wait()
        return out

    def mesh(self):
        rank = self.here.rank
        return SimpleNamespace(
            get_group=lambda: None, size=lambda: self.size, get_local_rank=lambda: rank
        )

    def run(self, work):
        results = [None] * self.size

        def one(rank):
            self.here.rank = rank
            try:
                results[rank] = work(rank)
            except BaseException:
                self.barrier.abort()
                raise

        threads = [threading.Thread(target=one, args=(r,)) for r in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def layer(cfg, tokens, dtype):
    """Experts, and tokens with their routing and the gradient of what comes out."""
    torch.manual_seed(0)
    module = Experts(cfg)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.05)
    logits = torch.randn(tokens, cfg.num_experts)
    ids, weights = route(
        logits,
        torch.zeros(cfg.num_experts),
        num_experts_per_tok=cfg.num_experts_per_tok,
        n_group=cfg.n_group,
        topk_group=cfg.topk_group,
        routed_scaling_factor=cfg.routed_scaling_factor,
        norm_topk_prob=cfg.norm_topk_prob,
    )
    x, dout = (torch.randn(tokens, cfg.hidden_size).to(dtype) for _ in range(2))
    return module, x, ids, weights, dout


def passes(module, x, ids, weights, dout):
    """Output, and gradients of tokens, of weights and of the experts."""
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    out = module(x, ids, weights)
    leaves = [x, weights, *module.parameters()]
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


def on_ranks(monkeypatch, kind, ranks, module, *rows):
    """`passes` of each rank, with its share of the rows; and the bytes of all."""
    world = Ranks(monkeypatch, ranks)
    shares = list(zip(*(r.chunk(ranks) for r in rows), strict=True))
    return world.run(lambda rank: passes(kind(module, world.mesh()), *shares[rank])), world.bytes


def nano(**changes):
    fields = {"hidden_size": 64, "moe_intermediate_size": 32, **changes}
    return preset("ling-nano-bench").replace(**fields)


@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_those_of_one_process(monkeypatch, dtype, ranks):
    module, *rows = layer(nano(), 256, dtype)
    got, _ = on_ranks(monkeypatch, OneCopyExperts, ranks, module, *rows)
    for n, whole in enumerate(passes(module, *rows)):
        joined = torch.cat([parts[n] for parts in got])
        assert joined.dtype == whole.dtype
        if dtype == torch.float32:
            torch.testing.assert_close(joined, whole, rtol=1e-5, atol=1e-6)
            continue
        # Float32 sums in another order, rounded once: hardly a value is rounded otherwise.
        torch.testing.assert_close(joined, whole, rtol=2**-7, atol=1e-5)
        assert (joined != whole).float().mean() < 1e-3, n


@pytest.mark.parametrize("kind", [OneCopyExperts, ParallelExperts])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_routing_map_is_padded_where_the_rows_are(monkeypatch, kind, dtype):
    """With the results of rows of zeros, of as many or of 64 in a block."""
    module, *rows = layer(nano(), 256, dtype)
    with_zeros, _ = on_ranks(monkeypatch, kind, 2, module, *rows)
    module.pad_routing, padded = True, []
    made = routing_map.slots_of_padded_map
    monkeypatch.setattr(
        routing_map, "slots_of_padded_map", lambda *args: padded.append(made(*args)) or padded[-1]
    )
    on_map, _ = on_ranks(monkeypatch, kind, 2, module, *rows)
    assert len(padded) == 2
    assert all(len(slots.added_P[0]) for slots in padded)
    assert all(size % 16 == 0 for slots in padded for size in slots.offsets)
    for want, got in zip(with_zeros, on_map, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_ranks_without_a_row(monkeypatch):
    module, x, _, weights, dout = layer(nano(), 32, torch.float32)
    rows = (x, torch.arange(8).expand(32, 8), weights, dout)
    got, _ = on_ranks(monkeypatch, OneCopyExperts, 4, module, *rows)
    for n, whole in enumerate(passes(module, *rows)):
        joined = torch.cat([parts[n] for parts in got])
        torch.testing.assert_close(joined, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("ranks", "dtype", "share"),
    [
        (8, torch.bfloat16, 0.76),
        (8, torch.float32, 0.51),
        (2, torch.bfloat16, 0.38),
        (2, torch.float32, 0.26),
    ],
)
def test_fewer_bytes_travel_with_groups_on_ranks(monkeypatch, ranks, dtype, share):
    """At the width of Ling-mini, forward and backward, with all that goes along."""
    module, *rows = layer(nano(hidden_size=2048, num_experts=32), 64, dtype)
    _, copies_bytes = on_ranks(monkeypatch, OneCopyExperts, ranks, module, *rows)
    _, each_bytes = on_ranks(monkeypatch, ParallelExperts, ranks, module, *rows)
    assert copies_bytes <= share * each_bytes
