"""The network of a training step as one module: a single `forward` for main and MTP layers.

Sharding hooks `forward`, so whatever a step computes from parameters must be inside one:
losses too, since they read the head.
Legend: T tokens · D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from ..model.attention import Attend, DenseAttend
from ..model.layers import Linear
from ..model.ling import Ling
from ..model.moe import RoutingTrace
from .batches import Batch
from .noise import TokenNumbers

if TYPE_CHECKING:
    from .objectives.base import Losses, Objective


class Context(Protocol):
    """Which of a micro-batch's tokens this rank computes, one of `parts` equal parts."""

    @property
    def parts(self) -> int: ...

    def cut(self, x_BS: Tensor) -> Tensor:
        """x_T of these tokens."""

    def whole(self, x_T: Tensor, rows: int) -> Tensor:
        """The values of all tokens of `rows` rows, in order, without gradient."""

    def attend(self, batch: Batch) -> Attend:
        """Causal attention of these tokens inside their rows, or documents when isolated."""


class WholeRows:
    """The `Context` of a rank that computes its rows alone."""

    parts = 1

    def cut(self, x_BS: Tensor) -> Tensor:
        """All of them."""
        return x_BS.flatten()

    def whole(self, x_T: Tensor, rows: int) -> Tensor:
        """They are here."""
        return x_T

    def attend(self, batch: Batch) -> Attend:
        """Over the keys that are here."""
        return DenseAttend(batch.cu_seqlens)


WHOLE_ROWS = WholeRows()

# From the hidden states of all layers, inside `forward`, to what it returns instead.
Score = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


class LingForTraining(nn.Module):
    """`Ling` and its MTP layers behind one call; parameters are those of `ling`.

    `context` says which tokens of a micro-batch the caller passes, `token_numbers` while training
    which they are. Without `uses_mtp` MTP layers
    are kept, but not computed.
    """

    context: Context = WHOLE_ROWS
    uses_mtp = True

    def __init__(self, ling: Ling) -> None:
        super().__init__()
        self.ling = ling
        self.token_numbers = TokenNumbers()

    @property
    def num_mtp_layers(self) -> int:
        """How many hidden states follow the main one."""
        return self.ling.config.num_nextn_predict_layers if self.uses_mtp else 0

    @property
    def head(self) -> Linear:
        """Hidden states to scores; `loss.cross_entropy` takes it. Whole only inside `forward`."""
        return self.ling.lm_head

    def forward(
        self,
        tokens: Sequence[Tensor],
        positions_T: Tensor,
        attend: Attend,
        trace: RoutingTrace | None = None,
        score: Score | None = None,
    ) -> tuple[Tensor, ...]:
        """hidden_TD of the main layers, then of each MTP layer; or what `score` makes of them.

        A plain tuple of tensors, in which sharding finds those that a backward pass starts from.
        `tokens[0]` are the tokens_T of the batch, `tokens[j]` those j positions later in their row:
        the caller shifts them, because here rows may be cut over ranks.
        """
        main_TD = self.ling(tokens[0], positions_T, attend, trace)
        hidden = self.with_mtp(main_TD, tokens, positions_T, attend, trace)
        return hidden if score is None else score(hidden)

    def with_mtp(
        self,
        main_TD: Tensor,
        tokens: Sequence[Tensor],
        positions_T: Tensor,
        attend: Attend,
        trace: RoutingTrace | None,
    ) -> tuple[Tensor, ...]:
        """hidden_TD of the main layers and those of the MTP layers behind them."""
        hidden = [main_TD]
        for j in range(self.num_mtp_layers):
            hidden.append(self.ling.mtp(j, tokens[j + 1], hidden[j], positions_T, attend, trace))
        return tuple(hidden)

    def micro_batches(
        self, objective: Objective, batches: Iterable[Batch], scale: int
    ) -> Iterable[tuple[Losses, int]]:
        """Add the gradients of each micro-batch of a step, one of `scale`; yields losses and tokens
        of this rank's part."""
        for batch in batches:
            with self.token_numbers.of(batch, self.context.cut):
                losses = objective.losses(self, batch)
                (losses.total / scale).backward()
            yield losses, batch.tokens_BS.numel() // self.context.parts
