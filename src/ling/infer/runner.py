"""Runners: batch of token ids in, hidden states and scores out, over a paged KV cache.

Two of them: `TorchRunner` runs the model in plain PyTorch (the oracle; float32), `NativeRunner`
hands a whole forward pass to the C++ core in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..config import ModelConfig
from ..model.ling import Ling
from ..model.swap import row_blocks, swap
from .memory import check_cache, check_kv_cache_dtype, kv_page_bytes
from .pages import Segment
from .torch_pages import PagedAttend, PageTensor

HasId = Callable[[int], bool]


class Runner(Protocol):
    """What the engine needs of a model. Hidden states are [rows, D] and belong to the runner."""

    config: ModelConfig
    mapped_bytes: int
    """Weights that stay in their file."""
    max_step_tokens: int
    # Drafts are chosen among the first so many ids (0: all). Ids of a byte-level BPE come in the
    # order of their merges, so the first are the frequent ones.
    draft_vocab: int

    def page_bytes(self) -> int:
        """KV bytes of one page, all layers."""

    def allocate(self, num_pages: int) -> None:
        """Make the KV cache; called once, before anything runs."""

    def ban(self, has_id: HasId | None) -> None:
        """Never choose an id that `has_id` denies."""

    def forward(self, tokens: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        """Hidden states after the final norm."""

    def mtp(
        self, j: int, next_tokens: Sequence[int], hidden: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        """Hidden states of MTP layer `j` (model/ling.py: `Ling.mtp`)."""

    def logits(self, hidden: Tensor, vocab: int = 0) -> tuple[Tensor, list[int]]:
        """float32 scores [rows, vocab] over the first `vocab` ids (0: all), and in each row the
        lowest id of the largest score that is not banned. The scores are valid until the next
        call.
        """

    def banned_ids(self) -> Tensor | None:
        """Ids never to choose."""

    def step_done(self) -> None:
        """Called between steps, when nothing runs."""


class Bans:
    """Ids that a runner never chooses: those without a token."""

    config: ModelConfig
    banned: Tensor | None = None
    """uint8 [V], 1 where an id may not be chosen; None when all may."""
    _ids: Tensor | None = None

    def ban(self, has_id: HasId | None) -> None:
        self.banned = self._ids = None
        if has_id is None:
            return
        ids = range(self.config.vocab_size)
        mask = torch.tensor([not has_id(i) for i in ids], dtype=torch.uint8)
        if bool(mask.any()):
            self.banned, self._ids = mask, mask.nonzero()[:, 0]

    def banned_ids(self) -> Tensor | None:
        return self._ids


class TorchRunner(Bans):
    """The reference: the module itself, products in row blocks so that a row's bits are its own.

    A KV cache in "bf16" holds what the module computes, so float32 where that is the dtype.
    """

    mapped_bytes = 0
    max_step_tokens = 512
    draft_vocab = 0

    def __init__(self, model: Ling, kv_cache_dtype: str = "bf16") -> None:
        check_kv_cache_dtype(kv_cache_dtype)
        swap(model.eval(), row_blocks)
        self.model, self.config = model, model.config
        dtype = model.model.norm.weight.dtype
        self.kv_dtype = torch.int8 if kv_cache_dtype == "int8" else dtype

    def page_bytes(self) -> int:
        return kv_page_bytes(self.config, self.kv_dtype.itemsize)

    def allocate(self, num_pages: int) -> None:
        smaller = kv_page_bytes(self.config, 1)
        check_cache(num_pages, self.page_bytes(), self.mapped_bytes, smaller)
        cfg, dtype = self.config, self.kv_dtype
        self.cache = PageTensor(cfg, num_pages, dtype), PageTensor(cfg, num_pages, dtype)

    def step_done(self) -> None:
        pass

    @torch.inference_mode()
    def forward(self, tokens: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        attend = PagedAttend(self.cache, segments)
        return self.model(torch.tensor(tokens), _positions(segments), attend)

    @torch.inference_mode()
    def mtp(
        self, j: int, next_tokens: Sequence[int], hidden: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        attend = PagedAttend(self.cache, segments)
        positions = _positions(segments)
        return self.model.mtp(j, torch.tensor(next_tokens), hidden, positions, attend)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, vocab: int = 0) -> tuple[Tensor, list[int]]:
        logits = self.model.logits(hidden)[:, : vocab or None]
        allowed = logits
        if self.banned is not None:
            allowed = logits.masked_fill(self.banned[: logits.shape[1]].bool(), float("-inf"))
        return logits, allowed.argmax(-1).tolist()


def _positions(segments: Sequence[Segment]) -> Tensor:
    return torch.cat([torch.arange(s.first, s.first + s.stop - s.start) for s in segments])
