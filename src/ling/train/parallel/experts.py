"""Expert parallelism: a layer's experts spread over ranks, rows exchanged between them.

Here a row travels for each expert of a token; `copies.py` sends one for each rank.
Legend: T tokens · A experts per token · N = T·A routed rows · E experts of the layer · D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from ...checkpoint.dcp.local import local_part
from ...model.moe import Experts
from ...ops import experts
from ...ops.routing_map import tokens_of


class ParallelExperts(Experts):
    """`Experts` of which every rank of `mesh` holds E / ranks, under the names of the whole.

    Rows go to the rank of their expert and come back, in numbers that differ from rank to rank.
    """

    def __init__(self, base: Experts, mesh: DeviceMesh) -> None:
        nn.Module.__init__(self)
        self.group, self.ranks = mesh.get_group(), mesh.size()
        self.num_experts = base.gate_proj.shape[0]
        self.own = self.num_experts // self.ranks
        self.pad_routing = base.pad_routing
        self.first = mesh.get_local_rank() * self.own
        self.multiply = base.multiply
        for name, p in base.named_parameters(recurse=False):
            # No rank's values count: the weights are made or loaded later, part by part.
            part = distribute_tensor(p.detach(), mesh, [Shard(0)], src_data_rank=None)
            self.register_parameter(name, nn.Parameter(part, requires_grad=p.requires_grad))

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        slots = experts.sort_by_expert(ids_TA, self.num_experts, 1)
        counts = slots.starts_E1.diff().view(self.ranks, -1)
        theirs = torch.empty_like(counts)
        dist.all_to_all_single(theirs, counts, group=self.group)
        sent, received = counts.sum(1).tolist(), theirs.sum(1).tolist()
        x_RD = _Exchange.apply(experts.dispatch(x_TD, slots), sent, received, self.group)
        y_RD = self._own(x_RD, theirs)
        y_ND = _Exchange.apply(y_RD, received, sent, self.group)
        # FSDP cannot hook a view safely, and in float32 this would be one.
        return experts.combine(y_ND, slots, weights_TA).clone()

    def _own(self, x_RD: Tensor, counts: Tensor) -> Tensor:
        """Received rows, by rank and then by expert (`counts`), through this rank's experts."""
        ids_E = torch.arange(self.own, device=counts.device).repeat(self.ranks)
        ids_R = ids_E.repeat_interleave(counts.flatten(), output_size=len(x_RD))
        slots = self.slots(ids_R, tokens_of(ids_R[:, None]), len(x_RD))
        y_SD = self.products(experts.dispatch(x_RD, slots), slots.groups)
        return experts.combine(y_SD, slots, ids_R.new_ones((len(ids_R), 1), dtype=torch.float32))

    @property
    def num_own(self) -> int:
        """Those of this rank."""
        return self.own

    def products(self, x_RD: Tensor, groups: experts.Groups) -> Tensor:
        """SwiGLU of rows that are sorted by this rank's experts."""
        return self.multiply(x_RD, groups, *map(local_part, self.factors()))


class _Exchange(torch.autograd.Function):
    """Rows to and from all ranks of a group; backward they go the way they came."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return exchanged(x, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return exchanged(grads[0], ctx.received, ctx.sent, ctx.group), None, None, None


def exchanged(x: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    """Rows from all ranks of `group`, `received` of each, for those of `x`, `sent` to each."""
    out = x.new_empty((sum(received), x.shape[1]))
    dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
    return out
