"""One optimizer step: micro-batches → losses → backward → reduce → clip → update → balance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..checkpoint.dcp.local import local_part
from ..config.optim import OptimConfig
from ..config.recipe import TrainConfig
from ..errors import RunError
from ..model.ling import Ling
from . import balance
from .batches import Batch
from .fp8.weights import renew
from .norms import PARTS, gradient_norms
from .objectives.base import Losses, Objective
from .optim import check_strides
from .schedule import bias_update_rate, learning_rate
from .state import TrainState

# Steps whose median norm a spike is measured against.
NORMS = 100


class TooManySkipped(RunError):
    """Steps in a row that were left out; all ranks raise it after the same step."""


@dataclass
class Sums:
    """What a step adds up over its micro-batches, and over ranks once a step.

    `losses` are float64 means over the global batch, left on the device until they are read.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[int, Tensor] = field(default_factory=dict)
    z_loss: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    tokens: int = 0

    def add(self, losses: Losses, scale: int, tokens: int) -> None:
        """Add one of `scale` micro-batches."""
        for name, value in losses.named.items():
            part = value.detach().double() / scale
            self.losses[name] = self.losses[name] + part if name in self.losses else part
        self.z_loss = self.z_loss + losses.z_loss.detach().double() / scale
        for layer, c in losses.counts.items():
            self.counts[layer] = self.counts[layer] + c if layer in self.counts else c
        self.tokens += tokens


class Reduce(Protocol):
    """Makes what one rank has of a step into what all have together."""

    def sums(self, sums: Sums) -> None:
        """Add up in place."""

    def over_rows(self, counts: Tensor) -> Tensor:
        """The sum of what each rank counted in rows of its own; ranks that share rows count
        once."""

    def norm(self, norm: Tensor) -> Tensor:
        """Norms of the whole gradient from those of this rank's part."""


class OneRank:
    """The `Reduce` of a process that trains alone."""

    def sums(self, sums: Sums) -> None:
        """They are those of the step."""

    def over_rows(self, counts: Tensor) -> Tensor:
        """All rows are here."""
        return counts

    def norm(self, norm: Tensor) -> Tensor:
        """They are those of the gradient."""
        return norm


ONE_RANK = OneRank()


Look = Callable[[Ling], None]


@dataclass
class StepResult:
    """What the log tells of a step; losses are means over the global batch.

    `part_norms` are the norms of the gradient of each part of the model, before clipping.
    """

    losses: dict[str, float]
    z_loss: float
    counts: dict[int, Tensor]
    tokens: int
    lr: float
    grad_norm: float
    part_norms: dict[str, float] = field(default_factory=dict)


def train_step(
    state: TrainState,
    objective: Objective,
    batches: Iterable[Batch],
    train: TrainConfig,
    optim: OptimConfig,
    reduce: Reduce = ONE_RANK,
    look: Look | None = None,
) -> StepResult:
    """Train on this process's micro-batches of step `state.step + 1`, and count it as done.

    `look` sees the model with the gradients of the step.

    A step that is not finite, or whose gradient's norm is a spike, leaves weights, optimizer and
    expert bias as they were; raises `TooManySkipped` after `train.max_nonfinite` of them in a row.
    """
    step, row = state.step + 1, state.next_row
    lr, rows = learning_rate(optim, train, step), train.batch_size(step)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    sums = Sums()
    scale = rows // train.micro_batch_size
    ready = objective.batches(batches, scale, reduce.over_rows)
    moved = (batch.to(state.device) for batch in ready)
    for losses, tokens in state.network.micro_batches(objective, moved, scale):
        sums.add(losses, scale, tokens)
    reduce.sums(sums)
    if look is not None:
        look(state.model)
    means = {name: float(value) for name, value in sums.losses.items()}
    norm, *parts = _update(state, sum(means.values()), sums.counts, train, reduce)
    if state.skipped == 1:
        state.skipped_from = row
    if state.skipped >= train.max_nonfinite:
        spike = ", or the gradient a spike," if train.spike_factor else ""
        raise TooManySkipped(
            f"step {step}: loss or gradient not finite{spike} {state.skipped} times in a row"
        )
    state.step = step
    state.rows = row + rows
    state.tokens += sums.tokens
    norms, counts = dict(zip(PARTS, parts, strict=True)), _on_cpu(sums.counts)
    return StepResult(means, float(sums.z_loss), counts, sums.tokens, lr, norm, norms)


def _on_cpu(counts: dict[int, Tensor]) -> dict[int, Tensor]:
    """The counts for the log, from a GPU in one copy."""
    return (
        dict(zip(counts, torch.stack(list(counts.values())).cpu(), strict=True)) if counts else {}
    )


def _update(
    state: TrainState,
    loss: float,
    counts: dict[int, Tensor],
    train: TrainConfig,
    reduce: Reduce,
) -> list[float]:
    """Clip, update and balance if all is well; returns the norm of the gradient, then those of its
    parts.

    All ranks have the same sums and the same norms, so they decide alike.
    """
    norm, *parts = _clip(state.model, train.grad_clip or math.inf, reduce)
    if math.isfinite(norm) and math.isfinite(loss) and not _spike(state, norm, train):
        check_strides(state.model.parameters())
        state.optimizer.step()
        renew(state.network)
        rate = bias_update_rate(train, state.step + 1)
        balance.update_biases(state.model, counts, rate, zero_mean=train.bias_zero_mean)
        state.skipped = 0
        if train.spike_factor:
            state.norms = [*state.norms, norm][-NORMS:]
    else:
        state.skipped += 1
    state.optimizer.zero_grad(set_to_none=True)
    return [norm, *parts]


def _spike(state: TrainState, norm: float, train: TrainConfig) -> bool:
    """Whether a norm is far above what it was; there is no telling before `NORMS` steps."""
    if not train.spike_factor or len(state.norms) < NORMS:
        return False
    return norm > train.spike_factor * statistics.median(state.norms)


@torch.no_grad()
def _clip(model: nn.Module, limit: float, reduce: Reduce) -> list[float]:
    """Scale gradients to at most `limit`; returns their norm before, then those of its parts.

    Part by part: sharded tensors of two meshes cannot be in one norm of torch's.
    """
    grads = {n: local_part(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    norms = reduce.norm(gradient_norms(grads))
    # torch's `clip_grad_norm_`, whose products are the same to the bit.
    torch._foreach_mul_(list(grads.values()), (limit / (norms[0] + 1e-6)).clamp(max=1.0))
    return norms.cpu().tolist()
