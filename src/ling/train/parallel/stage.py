"""One stage of a pipeline: the layers it has, and how a micro-batch goes through them.

Modules are shared with the whole network and have its names; those of other stages are None.
Legend: T tokens of a micro-batch · D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...checkpoint.dcp.local import local_part
from ...model.attention import Attend
from ...model.ling import Ling
from ...model.moe import RoutingTrace
from ..forward import LingForTraining, Score


class StageNetwork(LingForTraining):
    """The network of one stage: goes on from `received`, and leaves in `sent` what the next gets.

    `forward` has the hidden states of the last stage; before it there are none.
    """

    def __init__(self, ling: Ling, *, is_last: bool) -> None:
        super().__init__(ling)
        self.is_last = is_last
        self.received: Tensor | None = None
        self.sent: Tensor | None = None

    def forward(
        self,
        tokens: Sequence[Tensor],
        positions_T: Tensor,
        attend: Attend,
        trace: RoutingTrace | None = None,
        score: Score | None = None,
    ) -> tuple[Tensor, ...]:
        x_TD = self.ling.embed(tokens[0]) if self.received is None else self.received
        x_TD = self.ling.hidden(x_TD, positions_T, attend, trace)
        hidden: tuple[Tensor, ...] = ()
        if self.is_last:
            hidden = self.with_mtp(x_TD, tokens, positions_T, attend, trace)
        else:
            self.sent = x_TD
        return hidden if score is None else score(hidden)


class Stage(nn.Module):
    """What the pipeline runs of a stage, and the root of its sharding."""

    def __init__(self, network: StageNetwork, index: int) -> None:
        super().__init__()
        self.network, self.index = network, index

    @property
    def ling(self) -> Ling:
        """The layers of the stage."""
        return self.network.ling

    @property
    def is_last(self) -> bool:
        """Whether it has the head."""
        return self.network.is_last

    def forward(self, received_TD: Tensor | None = None, *, work: Any, **more: Any) -> Any:
        """`work` on the network, which goes on from the hidden states of the stage before."""
        self.network.received = received_TD
        try:
            return work(self.network, **more)
        finally:
            self.network.received = self.network.sent = None


class AddLoss(torch.autograd.Function):
    """Hidden states whose backward pass also starts from a loss of this stage."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, loss: Tensor) -> Tensor:
        return hidden_TD.clone()  # the schedule cannot detach a view

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], grads[0].new_ones((), dtype=torch.float32)


class SharedEmbedding:
    """The embedding of the first stage and the copy that the last one has of it.

    The copy's gradient goes to the first stage and its weights come from there, so that norm,
    update and checkpoint have the parameter once. Stages between hold neither.
    """

    def __init__(self, stages: Sequence[Stage], group: Any) -> None:
        self.group = group
        # Not the weights: sharding puts others into the modules.
        self.original = self.copy = None
        self._is_old = True
        if shares_embedding(stages[0].network):
            self.original = stages[0].ling.model.word_embeddings if stages[0].index == 0 else None
            self.copy = stages[-1].ling.model.word_embeddings if stages[-1].is_last else None

    @torch.no_grad()
    def update_copy(self) -> None:
        """The copy takes the weights of the first stage, if a step may have moved them."""
        if not self._is_old:
            return
        self._is_old = False
        if self.original is not None:
            dist.send(_part(self.original.weight), group=self.group, group_dst=self._last)
        if self.copy is not None:
            dist.recv(_part(self.copy.weight), group=self.group, group_src=0)

    @torch.no_grad()
    def add_gradient(self) -> None:
        """The first stage adds the copy's gradient to its own, for an update of the weights."""
        used = self.original or self.copy
        if used is None or not used.weight.requires_grad:
            return
        self._is_old = True
        if self.copy is not None:
            dist.send(_part(self.copy.weight.grad), group=self.group, group_dst=0)
            self.copy.weight.grad = None
        if self.original is not None:
            own = _part(self.original.weight.grad)
            received = torch.empty_like(own)
            dist.recv(received, group=self.group, group_src=self._last)
            own.add_(received)

    @property
    def _last(self) -> int:
        return dist.get_world_size(self.group) - 1


def _part(tensor: Any) -> Tensor:
    """The values of this rank; the other end has the same part of the other tensor."""
    return local_part(tensor).detach()


def shares_embedding(network: LingForTraining) -> bool:
    """Whether the last stage uses the embedding too."""
    return bool(network.num_mtp_layers or network.ling.config.tie_word_embeddings)


def part_of(whole: Ling, stages: Sequence[range], numbers: Sequence[int]) -> Ling:
    """The modules of these stages in a `Ling` that shares them with the whole one."""
    with torch.device("meta"):
        part = Ling(whole.config)
    part.compute_dtype = whole.compute_dtype
    main = {i for number in numbers for i in stages[number]}
    first, last = 0 in numbers, len(stages) - 1 in numbers
    n = whole.config.num_hidden_layers
    for i, block in enumerate(whole.model.layers):
        here = i in main if i < n else last
        part.model.layers.register_module(str(i), block if here else None)
    embedding, norm = whole.model.word_embeddings, whole.model.norm
    head = None if whole.config.tie_word_embeddings else whole.lm_head
    part.model.register_module("word_embeddings", embedding if first else None)
    part.model.register_module("norm", norm if last else None)
    part.register_module("lm_head", head if last else None)
    return part


def own_embedding(last: Ling, like: Tensor) -> None:
    """Give the last stage an embedding for its MTP layers and a tied head; its weights are stored
    and frozen as those of the first are (`like`)."""
    with torch.device("meta"):
        own = Ling(last.config)
    last.model.word_embeddings = own.model.word_embeddings.to(like.dtype)
    last.model.word_embeddings.requires_grad_(like.requires_grad)
    if last.config.tie_word_embeddings:
        last.lm_head = own.lm_head
