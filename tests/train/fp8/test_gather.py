"""FSDP gathers bytes: on one rank that hooks and products agree, and which parts may be cut."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from ling.config.recipe import TrainConfig
from ling.model.layers import Linear
from ling.model.moe import Experts
from ling.presets import preset
from ling.train.fp8 import gather
from ling.train.fp8.rule import fp8
from ling.train.fp8.weights import kept_weights, renew

TRAIN = TrainConfig(fp8="blockwise", fp8_param_gather=True)
CFG = preset("ling-nano").replace(num_experts=4, n_group=1, topk_group=1)


class Layer(nn.Module):
    """A linear map and experts, which get the rows of their expert."""

    def __init__(self):
        super().__init__()
        self.linear, self.experts = Linear(256, 256, bias=False), Experts(CFG)

    def forward(self, x):
        ids = torch.arange(len(x))[:, None] % 4
        y = self.experts(self.linear(x), ids, torch.ones(ids.shape))
        return y.clone()  # FSDP cannot hook a view safely


def layer():
    """In FP8, with weights that a seed gives."""
    torch.manual_seed(0)
    made = Layer()
    for p in made.parameters():
        nn.init.normal_(p, std=0.1)
    fp8(made, TRAIN)
    return made


def passes(module):
    x = torch.randn(40, 256, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    y = module(x)
    y.float().square().sum().backward()
    grads = [getattr(p.grad, "_local_tensor", p.grad) for p in module.parameters()]
    return [y.detach(), x.grad, *grads]


@pytest.fixture
def one_rank():
    store = dist.TCPStore("127.0.0.1", 0, 1, True)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
    dist.destroy_process_group()


def sharded(mesh):
    module = layer()
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    gather.mark_gathered(module, set())
    gather.gather_bytes(module)
    return module


def test_products_of_gathered_bytes_are_those_of_the_weights(one_rank):
    alone, module = layer(), sharded(one_rank)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(passes(alone), passes(module), strict=True))
        for p in (*alone.parameters(), *module.parameters()):
            p.detach().mul_(1.5)
            p.grad = None
        renew(module)


def test_a_kernel_that_nobody_sees_is_followed_after_renew(one_rank):
    module = sharded(one_rank)
    before = passes(module)[0]
    for p in module.parameters():
        p._local_tensor.numpy()[:] = 0
    assert torch.equal(passes(module)[0], before)
    renew(module)
    assert not passes(module)[0].any()


def test_no_weight_is_gathered_in_another_form(one_rank):
    module, seen = sharded(one_rank), []

    def note(mod, args):
        seen.append({n: p.untyped_storage().size() for n, p in module.named_parameters()})

    module.linear.register_forward_pre_hook(note)
    passes(module)
    passes(module)
    # The first time autograd's parameters have memory until their products begin.
    assert set(seen[0].values()) == {4 * 256 * 256, 4 * 4 * 128 * 256}
    assert set(seen[1].values()) == {0}
    values = sum(p.numel() for p in module.parameters())
    scales = 4 * values // 128**2
    assert sum(kept.nbytes for kept in kept_weights(module)) == values + scales
    whole = [part.codes for kept in kept_weights(module) for part in kept.gathered.parts]
    module.reshard()
    assert [codes.untyped_storage().size() for codes in whole] == [0] * 4


@pytest.mark.parametrize(
    ("shape", "cut", "stacked", "dim"),
    [
        ((512, 256), 0, False, 0),
        ((256, 256), 0, False, None),  # 64 rows of each of 4 ranks
        ((500, 256), 0, False, None),
        ((8, 512, 256), 1, True, 1),
        ((8, 256, 512), 1, False, None),
        ((8, 128, 256), 0, True, 0),  # whole experts
        ((8, 192, 256), 0, True, None),  # a block of gate and up together
        ((8, 192, 256), 0, False, 0),
        ((6, 128, 256), 0, True, None),  # 2, 2, 2 and no experts
    ],
)
def test_parts_that_end_where_blocks_end_are_gathered_as_bytes(shape, cut, stacked, dim):
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=4)
    try:
        mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("expert_shard",))
        p = distribute_tensor(torch.empty(shape), mesh, [Shard(cut)], src_data_rank=None)
        assert gather.whole_blocks(p, stacked=stacked) == dim
    finally:
        dist.destroy_process_group()


def test_all_products_of_a_network_are_found():
    module = layer()
    found = {id(kept): [tuple(p.shape) for p in ps] for kept, ps in gather.products_of(module)}
    assert list(found) == [id(kept) for kept in kept_weights(module)]
    assert list(found.values()) == [
        [(256, 256)],
        [(4, 128, 256), (4, 128, 256)],
        [(4, 256, 128)],
    ]
