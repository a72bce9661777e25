"""Which experts each token of a request took, with what weights: on request only.

Legend: T tokens · L layers that have experts · A experts per token.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..config.model import ModelConfig
from ..model.swap import in_row_blocks
from ..ops import reference
from .scheduler import ScheduledRequest


class StepRouting:
    """Buffers for the rows of a step: `ids` int32 and `weights` float32, [L, T, A].

    Of main layers only; experts of a row in the order in which they were chosen, the best first.
    """

    def __init__(self, cfg: ModelConfig, rows: int) -> None:
        layers = [i for i in range(cfg.num_hidden_layers) if cfg.is_moe_layer(i)]
        self._cfg, self._at = cfg, {layer: at for at, layer in enumerate(layers)}
        self.rows = rows
        self.ids = torch.empty(len(layers), rows, cfg.num_experts_per_tok, dtype=torch.int32)
        self.weights = torch.empty(self.ids.shape)

    def record(self, layer: int, logits_TE: Tensor, ids_TA: Tensor) -> None:
        """As the modules call it (model/moe.py: RoutingTrace)."""
        cfg, at = self._cfg, self._at[layer]
        self.ids[at] = ids_TA
        # In row blocks as the router itself, so that these are its bits.
        scores_TE = in_row_blocks(logits_TE, torch.sigmoid)
        self.weights[at] = reference.expert_weights(
            scores_TE, ids_TA, cfg.norm_topk_prob, cfg.routed_scaling_factor
        )


class RoutedExperts:
    """Experts of a request's tokens, from the first on: those that were computed, so not of the
    last one that was chosen. Takes 8 · L · A bytes a token."""

    def __init__(self, cfg: ModelConfig, num_prompt_tokens: int, max_tokens: int) -> None:
        layers = sum(cfg.is_moe_layer(i) for i in range(cfg.num_hidden_layers))
        self._num_prompt_tokens = num_prompt_tokens
        shape = (num_prompt_tokens + max_tokens - 1, layers, cfg.num_experts_per_tok)
        # The system gives memory only where something is written.
        self._ids, self._weights = np.empty(shape, np.int32), np.empty(shape, np.float32)
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def add(self, step: StepRouting, first: int, start: int, count: int) -> None:
        """Rows `start` on, of `count` tokens from position `first` on; those that a preempted
        request computes again are there already."""
        known = max(self._len - first, 0)
        if known >= count:
            return
        rows, to = slice(start + known, start + count), slice(first + known, first + count)
        self._ids[to] = step.ids[:, rows].transpose(0, 1).numpy()
        self._weights[to] = step.weights[:, rows].transpose(0, 1).numpy()
        self._len = first + count

    def arrays(self, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (int32) and weights (float32) [T, L, A] of the prompt and of so many tokens behind it
        but the last; any thread may ask."""
        known = min(max(self._num_prompt_tokens + num_tokens - 1, 0), self._len)
        return self._ids[:known].copy(), self._weights[:known].copy()


def routing_for(cfg: ModelConfig, step: list[ScheduledRequest]) -> StepRouting | None:
    """Buffers for a step; None where no request of it asks."""
    if all(s.request.routed_experts is None for s in step):
        return None
    return StepRouting(cfg, sum(len(s.ids) for s in step))


def keep_routing(
    routing: StepRouting | None, step: list[ScheduledRequest], verified: list[int]
) -> None:
    """Give requests that ask the experts of their `verified` rows: dropped drafts have none."""
    if routing is None:
        return
    for s, count in zip(step, verified, strict=True):
        if s.request.routed_experts is not None:
            s.request.routed_experts.add(routing, s.first, s.start, count)
