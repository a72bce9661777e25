"""What the engine needs of a model: batch of token ids in, hidden states and scores out, over a
paged KV cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..config.model import ModelConfig
from ..errors import RequestError
from .pages import Segment

if TYPE_CHECKING:
    from .routed import StepRouting

HasId = Callable[[int], bool]


class Runner(Protocol):
    """What the engine needs of a model. Hidden states are [rows, D] and belong to the runner."""

    config: ModelConfig
    mapped_bytes: int
    """Bytes of weights that stay in their file."""
    max_step_tokens: int
    """Most rows of a forward pass."""
    draft_vocab: int
    """Drafts are chosen among the first N ids (0: all). Ids of a byte-level BPE come in the
    order of their merges, so the first are the frequent ones."""

    weights_id: str
    """A hash that tells these weights from others; empty where they are of no checkpoint."""

    def page_bytes(self) -> int:
        """KV bytes of one page, all layers."""

    def page(self, number: int) -> list[Tensor]:
        """Views of all that a page has, in one order; together `page_bytes` bytes."""

    def numerics(self) -> str:
        """What, beside weights and tokens, may decide the bits of keys and values."""

    def allocate(self, num_pages: int) -> None:
        """Make the KV cache; called once, before anything runs."""

    def ban_ids(self, has_id: HasId | None) -> None:
        """Never choose an id that `has_id` denies."""

    def trace_experts(self, routing: StepRouting) -> None:
        """Have the next `forward`, and no later one, write the experts of its rows there."""

    def forward(self, tokens: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        """Hidden states after the final norm."""

    def mtp(
        self, j: int, next_tokens: Sequence[int], hidden: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        """Hidden states of MTP layer `j` (model/ling.py: `Ling.mtp`)."""

    def logits(
        self, hidden: Tensor, vocab: int = 0, mask: Tensor | None = None
    ) -> tuple[Tensor, list[int]]:
        """float32 scores [rows, vocab] over the first `vocab` ids (0: all), and in each row the
        lowest id of the largest score that is not banned and, with a `mask` (bool [rows, vocab]),
        that its row allows. The scores themselves are the model's own, valid until the next call.
        It is -1 where every id is banned, and says nothing in a row whose scores are not finite.
        Raises `RequestError` for a row of the mask that leaves no id.
        """

    def banned_ids(self) -> Tensor | None:
        """Ids never to choose."""

    def step_done(self) -> None:
        """Called between steps, when nothing runs."""


class BannedIds:
    """Ids that a runner never chooses: those without a token."""

    config: ModelConfig
    banned: Tensor | None = None
    """uint8 [V], 1 where an id may not be chosen; None when all may."""
    _ids: Tensor | None = None

    def ban_ids(self, has_id: HasId | None) -> None:
        self.banned = self._ids = None
        if has_id is None:
            return
        ids = range(self.config.vocab_size)
        banned = torch.tensor([not has_id(i) for i in ids], dtype=torch.uint8)
        if bool(banned.any()):
            self.banned, self._ids = banned, banned.nonzero()[:, 0]

    def banned_ids(self) -> Tensor | None:
        return self._ids

    def best_ids(self, logits: Tensor, mask: Tensor | None) -> list[int]:
        """In each row the lowest id of the largest score that neither ban nor mask forbids."""
        if self.banned is not None:
            logits = logits.masked_fill(self.banned[: logits.shape[1]].bool(), float("-inf"))
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
            if bool((logits == float("-inf")).all(-1).any()):
                raise RequestError("no token may be chosen: the mask leaves no id")
        best, none = logits.argmax(-1), (logits == float("-inf")).all(-1)
        return best.masked_fill(none, -1).tolist()
