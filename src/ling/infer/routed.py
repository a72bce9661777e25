"""Which experts each token of a request took, with what weights: on request only.

Legend: T tokens · L layers that have experts · A experts per token.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..config.model import ModelConfig
from ..errors import RequestError
from ..model.swap import in_row_blocks
from ..ops import reference
from .scheduler import ScheduledRequest


class StepRouting:
    """Buffers for the rows of a step, used again in the next: `ids` int32 and `weights` float32,
    [L, T, A], at addresses `ids_at` and `weights_at`.

    Of main layers only; experts of a row in the order in which they were chosen, the best first.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        self._cfg, self._layers, self.rows = cfg, layers_with_experts(cfg), 0
        self._make_room(0)

    def _make_room(self, values: int) -> None:
        self._ids, self._weights = np.empty(values, np.int32), np.empty(values, np.float32)
        self.ids_at, self.weights_at = self._ids.ctypes.data, self._weights.ctypes.data

    def begin(self, rows: int) -> None:
        """Have room for this many rows, whatever they are."""
        shape = len(self._layers), rows, self._cfg.num_experts_per_tok
        values = shape[0] * rows * shape[2]
        if values > len(self._ids):
            self._make_room(values)
        self.rows = rows
        self.ids = self._ids[:values].reshape(shape)
        self.weights = self._weights[:values].reshape(shape)

    def record(self, layer: int, logits_TE: Tensor, ids_TA: Tensor) -> None:
        """As the modules call it (model/moe.py: RoutingTrace)."""
        cfg, at = self._cfg, self._layers.index(layer)
        self.ids[at] = ids_TA.numpy()
        # In row blocks as the router itself, so that these are its bits.
        scores_TE = in_row_blocks(logits_TE, torch.sigmoid)
        self.weights[at] = reference.expert_weights(
            scores_TE, ids_TA, cfg.norm_topk_prob, cfg.routed_scaling_factor
        ).numpy()

    def keep(self, step: list[ScheduledRequest], verified: list[int]) -> None:
        """Give requests that ask the experts of their `verified` rows: dropped drafts have none."""
        ids_TLA, weights_TLA = self.ids.swapaxes(0, 1), self.weights.swapaxes(0, 1)
        for s, count in zip(step, verified, strict=True):
            if (routed := s.request.routed_experts) is not None:
                rows = slice(s.start, s.start + count)
                routed.add(ids_TLA[rows], weights_TLA[rows], s.first)


def layers_with_experts(cfg: ModelConfig) -> list[int]:
    """Numbers of the main layers that have experts."""
    return [i for i in range(cfg.num_hidden_layers) if cfg.is_moe_layer(i)]


def first_position(start_len: int, num_prompt_tokens: int) -> int:
    """Where `routed_experts_start_len` is in a prompt; raises `RequestError` outside it."""
    start = start_len + num_prompt_tokens if start_len < 0 else start_len
    if not 0 <= start < num_prompt_tokens:
        raise RequestError(
            f"`routed_experts_start_len` is {start_len}, but the prompt has {num_prompt_tokens} "
            "tokens",
            param="routed_experts_start_len",
        )
    return start


class RoutedExperts:
    """Experts of a request's tokens, from position `start` on: those that were computed, so not of
    the last one that was chosen. Takes 8 · L · A bytes a token."""

    def __init__(
        self, cfg: ModelConfig, num_prompt_tokens: int, max_tokens: int, start: int = 0
    ) -> None:
        self._num_prompt_tokens, self.start = num_prompt_tokens, start
        most = num_prompt_tokens + max_tokens - 1 - start
        shape = (most, len(layers_with_experts(cfg)), cfg.num_experts_per_tok)
        # The system gives memory only where something is written.
        self._ids, self._weights = np.empty(shape, np.int32), np.empty(shape, np.float32)
        self._len = 0

    def __len__(self) -> int:
        return self._len

    @property
    def stop(self) -> int:
        """The first position that is still to be computed: cached pages may serve those before."""
        return self.start + self._len

    def add(self, ids_TLA: np.ndarray, weights_TLA: np.ndarray, first: int) -> None:
        """Tokens from position `first` on; those that a preempted request computes again are there
        already, and those before `start` are not wanted."""
        known, stop = self.stop, first + len(ids_TLA)
        if stop > known:
            rows = slice(self._len, stop - self.start)
            self._ids[rows] = ids_TLA[known - first :]
            self._weights[rows] = weights_TLA[known - first :]
            self._len = rows.stop

    def arrays(self, num_tokens: int, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Ids (int32) and weights (float32) [T, L, A] of the prompt and of this many tokens behind
        it but the last, without the first `skip` rows; any thread may ask."""
        known = min(max(self._num_prompt_tokens + num_tokens - 1 - self.start, 0), self._len)
        return self._ids[skip:known].copy(), self._weights[skip:known].copy()


def wants_routing(step: list[ScheduledRequest]) -> bool:
    """Whether any request of a step asks for its experts."""
    return any(s.request.routed_experts is not None for s in step)
