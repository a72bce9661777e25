"""Pipeline parallelism: micro-batches go through the stages of all ranks, one behind the other.

`torch.distributed.pipelining` runs the schedule. Only hidden states go through the pipe: every
stage reads its micro-batch itself.
Legend: T tokens of a micro-batch · D hidden.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

from ...model.attention import Attend
from ...model.layers import Linear
from ...model.ling import Ling
from ...model.moe import RoutingTrace
from ..batches import Batch
from ..forward import LingForTraining, Score
from ..objectives.base import Losses, Objective
from .stage import (
    AddLoss,
    SharedEmbedding,
    Stage,
    StageNetwork,
    own_embedding,
    part_of,
    shares_embedding,
)


class PipelinedLing(LingForTraining):
    """The stages of one rank behind the calls of `LingForTraining`.

    `ling` has the parameters of this rank, each once in all ranks.
    """

    def __init__(self, whole: LingForTraining, stages: Sequence[range], group: Any) -> None:
        own = range(dist.get_rank(group), len(stages), dist.get_world_size(group))
        super().__init__(part_of(whole.ling, stages, own))
        self.context, self.uses_mtp = whole.context, whole.uses_mtp
        self.token_numbers = whole.token_numbers
        self.group, self.count = group, len(stages)
        self.stages = nn.ModuleList(self._stage(whole.ling, stages, i) for i in own)
        self._embedding = SharedEmbedding(self.own_stages, group)
        self._schedule: Any = None
        self._scheduled = (0, 0)
        self._sending: Any = None

    def _stage(self, whole: Ling, stages: Sequence[range], index: int) -> Stage:
        ling, is_last = part_of(whole, stages, [index]), index == self.count - 1
        network = StageNetwork(ling, is_last=is_last)
        network.context, network.uses_mtp = self.context, self.uses_mtp
        if is_last and shares_embedding(network):
            own_embedding(ling, whole.model.word_embeddings.weight)
        return Stage(network, index)

    @property
    def own_stages(self) -> list[Stage]:
        """From the first to the last."""
        return [stage for stage in self.stages if isinstance(stage, Stage)]

    @property
    def head(self) -> Linear:
        """That of the last stage; a tied one belongs to the copy of the embedding."""
        return self.own_stages[-1].ling.lm_head

    # ---- training ------------------------------------------------------------------------------

    def micro_batches(
        self, objective: Objective, batches: Iterable[Batch], scale: int
    ) -> Iterable[tuple[Losses, int]]:
        """Losses of each micro-batch in each stage of this rank, with their gradients added."""
        read = list(batches)
        found: list[tuple[Losses, int]] = []

        def work(network: StageNetwork, micro: Tensor) -> Tensor:
            batch = read[int(micro)]
            with self.token_numbers.of(batch, self.context.cut):
                losses = objective.losses(network, batch)
            tokens = batch.tokens_BS.numel() // self.context.parts if network.is_last else 0
            found.append((_detached(losses), tokens))
            total = losses.total / scale
            if network.sent is None:
                return torch.stack([total])
            return AddLoss.apply(network.sent, total)

        self._embedding.update_copy()
        self._run(len(read), read[0].tokens_BS.numel() // self.context.parts, work)
        self._embedding.add_gradient()
        first = found[0][0]
        zeros = torch.zeros(self.ling.config.num_experts, dtype=torch.int64, device=self.device)
        # All ranks add up the counts of all layers, so each has them all.
        layers = self.ling.config.num_hidden_layers + self.num_mtp_layers
        computed = [i for i in self.ling.config.moe_layers if i < layers]
        first.counts = {i: first.counts.get(i, zeros) for i in computed}
        return found

    @property
    def device(self) -> torch.device:
        """Where the stages compute."""
        return next(self.parameters()).device

    def _run(self, count: int, tokens: int, work: Any) -> None:
        """Forward and backward passes of `count` micro-batches in the order of the schedule."""
        if self._scheduled != (count, tokens):
            # A growing batch makes many; the buffers of each are for all its micro-batches.
            self._schedule = None
            self._schedule, self._scheduled = self._plan(count, tokens), (count, tokens)
        numbers = torch.arange(count)
        try:
            self._schedule.step(work=work, micro=numbers, target=numbers)
        except RuntimeError as err:  # torch's wrapper says only in which stage
            raise err.__cause__ or err from None

    def _plan(self, count: int, tokens: int) -> Any:
        # On an error it prints its whole plan, on each rank.
        logging.getLogger("torch.distributed.pipelining.schedules").setLevel(logging.CRITICAL)
        hidden = torch.empty(tokens, self.ling.config.hidden_size, dtype=self._dtype, device="meta")
        hidden.requires_grad_()
        loss = torch.empty(1, device="meta", requires_grad=True)
        # With shapes given it need not try a micro-batch, whose routing would be counted.
        stages: list[Any] = [
            PipelineStage(
                stage,
                stage.index,
                self.count,
                self.device,
                input_args=(hidden,) if stage.index else (),
                output_args=(loss if stage.is_last else hidden,),
                group=self.group,
            )
            for stage in self.own_stages
        ]
        if len(stages) == 1:
            return Schedule1F1B(stages[0], count, loss_fn=_same, scale_grads=False)
        return ScheduleInterleaved1F1B(stages, count, loss_fn=_same, scale_grads=False)

    @property
    def _dtype(self) -> torch.dtype:
        return self.ling.compute_dtype or torch.float32

    # ---- held-out rows -------------------------------------------------------------------------

    def forward(
        self,
        tokens: Sequence[Tensor],
        positions_T: Tensor,
        attend: Attend,
        trace: RoutingTrace | None = None,
        score: Score | None = None,
    ) -> tuple[Tensor, ...]:
        """As in one process, without gradient, on the rank of the last stage; on the others what
        `score` makes of no hidden states."""
        self._embedding.update_copy()
        found: tuple[Tensor, ...] = ()
        for stage in self.own_stages:
            sent: list[Tensor] = []

            def work(network: StageNetwork, sent: list[Tensor] = sent) -> tuple[Tensor, ...]:
                done = network(tokens, positions_T, attend, trace, score)
                sent += [] if network.sent is None else [network.sent]
                return done

            found = stage(self._receive(stage, positions_T), work=work)
            self._send(stage, sent)
        return found

    def _receive(self, stage: Stage, positions_T: Tensor) -> Tensor | None:
        if stage.index == 0:
            return None
        shape = len(positions_T), self.ling.config.hidden_size
        hidden_TD = torch.empty(shape, dtype=self._dtype, device=positions_T.device)
        dist.recv(hidden_TD, group=self.group, group_src=self._rank_of(stage.index - 1))
        return hidden_TD

    def _send(self, stage: Stage, hidden: list[Tensor]) -> None:
        for hidden_TD in hidden:
            if self._sending is not None:
                self._sending.wait()
            to = self._rank_of(stage.index + 1)
            self._sending = dist.isend(hidden_TD.contiguous(), group=self.group, group_dst=to)

    def _rank_of(self, stage: int) -> int:
        return stage % dist.get_world_size(self.group)


def _same(loss: Tensor, target: Tensor) -> Tensor:
    """The last stage has made the loss: it reads the head, whole only inside its forward pass."""
    return loss


def _detached(losses: Losses) -> Losses:
    """What is logged, without what the backward pass needs."""
    named = {name: value.detach() for name, value in losses.named.items()}
    return dataclasses.replace(
        losses, total=losses.total.detach(), named=named, z_loss=losses.z_loss.detach()
    )
