"""The network of a training step as one module: a single `forward` for main and MTP layers.

Sharding hooks `forward`, so whatever a step computes from parameters must be inside one:
losses too, since they read the head.
Legend: T tokens · D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..model.attention import Attend
from ..model.layers import Linear
from ..model.ling import Ling
from ..model.moe import RoutingTrace

# From the hidden states of all layers, inside `forward`, to what it returns instead.
Score = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


class LingForTraining(nn.Module):
    """`Ling` and its MTP layers behind one call; parameters are those of `ling`."""

    def __init__(self, ling: Ling) -> None:
        super().__init__()
        self.ling = ling

    @property
    def num_mtp_layers(self) -> int:
        """How many hidden states follow the main one."""
        return self.ling.config.num_nextn_predict_layers

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
        hidden = [self.ling(tokens[0], positions_T, attend, trace)]
        for j in range(self.num_mtp_layers):
            hidden.append(self.ling.mtp(j, tokens[j + 1], hidden[j], positions_T, attend, trace))
        return tuple(hidden) if score is None else score(hidden)
