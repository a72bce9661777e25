"""What the engine needs of a model: batch of token ids in, hidden states and scores out, over a
paged KV cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from ..config.model import ModelConfig
from ..errors import UsageError
from ..model.adapter import Adapter
from .adapters import NO_ADAPTERS, AdapterTable
from .choice import NO_IDS, Chosen, RowChoice
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

    adapters: AdapterTable
    """Those of `use_adapters`; segments have their numbers."""
    weights_id: str
    """A hash that tells these weights from others; empty where they are of no checkpoint."""

    def page_bytes(self) -> int:
        """KV bytes of one page, all layers."""

    def default_pages(self, positions: int) -> int:
        """Pages of a KV cache whose size nobody gave, for requests of at most that length."""

    def page(self, number: int) -> list[Tensor]:
        """Views of all that a page has, in one order; together `page_bytes` bytes."""

    def clear_mtp(self, number: int) -> None:
        """Make the MTP layers' keys and values of a page zero."""

    def numerics(self) -> str:
        """What, beside weights and tokens, may decide the bits of keys and values."""

    def allocate(self, num_pages: int) -> None:
        """Make the KV cache; called once, before anything runs."""

    def use_adapters(self, adapters: Mapping[str, Adapter]) -> None:
        """Have these adapters for the rows of the main layers; called once, before `allocate`.
        Raises `CheckpointError` for one that does not fit."""

    def ban_ids(self, has_id: HasId | None) -> None:
        """Never choose an id that `has_id` denies."""

    def trace_experts(self, routing: StepRouting | None) -> None:
        """Have the next `forward`, and no later one, write the experts of its rows there; None
        takes that back."""

    def forward(self, tokens: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        """Hidden states after the final norm."""

    def mtp(
        self, j: int, next_tokens: Sequence[int], hidden: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        """Hidden states of MTP layer `j` (model/ling.py: `Ling.mtp`), which has no adapter."""

    def logits(self, hidden: Tensor, vocab: int = 0) -> Tensor:
        """float32 scores [rows, vocab] over the first `vocab` ids (0: all), valid until the next
        call."""

    def choose(self, scores: Tensor, choices: Sequence[RowChoice]) -> list[Chosen]:
        """The token of each row of scores, never a banned one (infer/sampler.py: `choose`); a row
        that has none fails alone."""

    def step_done(self) -> None:
        """Called between steps, when nothing runs."""


class RunnerBase:
    """What runners share: adapters, and the ids that are never chosen, those without a token."""

    config: ModelConfig
    adapters: AdapterTable = NO_ADAPTERS
    banned_ids: np.ndarray = NO_IDS

    def use_adapters(self, adapters: Mapping[str, Adapter]) -> None:
        """Raise `UsageError`: a runner that has none of this does not run adapters."""
        raise UsageError("adapters run on the CPU only")

    def ban_ids(self, has_id: HasId | None) -> None:
        ids = range(self.config.vocab_size)
        banned = [] if has_id is None else [i for i in ids if not has_id(i)]
        self.banned_ids = np.array(banned, np.int32)
