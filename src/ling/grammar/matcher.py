"""A compiled grammar at work on one answer: token ids in, masks out (`infer/constraint.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import RequestError
from .library import problem
from .spec import PARAM


class GrammarMatcher:
    """The state of one answer.

    A mask depends on the tokens alone, however they were drafted, verified and taken back, so it is
    computed once for drafting and verification. The library is ahead of the answer by the drafts
    that were asked about last; it never sees a stop id, which it could not take back.
    """

    def __init__(self, matcher: Any, vocab_size: int, stop_ids: frozenset[int]) -> None:
        self._matcher, self._stop_ids = matcher, stop_ids
        self._num_words = (vocab_size + 31) // 32
        self._ahead: list[int] = []
        self._masks: dict[tuple[int, ...], np.ndarray] = {}
        self.is_done = False
        """The answer is complete: no token may follow."""

    def mask(self, drafts: Sequence[int]) -> np.ndarray:
        """Ids that may follow the answer so far and `drafts`, as a bit set (uint32 [V / 32]): none
        behind a stop id, and none behind drafts that may not come."""
        key = tuple(drafts)
        mask = self._masks.get(key)
        if mask is None:
            mask = self._masks[key] = np.zeros(self._num_words, np.uint32)
            if not (self.is_done or self._stop_ids.intersection(key)) and self._move_to(key):
                self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
                self._check()
        return mask

    def accept(self, token_id: int) -> None:
        """Continue the answer; raises `RequestError` where the grammar cannot follow."""
        self._masks = {k[1:]: mask for k, mask in self._masks.items() if k[:1] == (token_id,)}
        if token_id in self._stop_ids:
            self.is_done = True
            return
        if self._ahead[:1] != [token_id] and not self._move_to((token_id,)):
            raise _failed(f"token {token_id} is not part of it")
        del self._ahead[0]

    def forced(self) -> list[int]:
        """Tokens that must come next."""
        if self.is_done or not self._move_to(()):
            return []
        forced = self._matcher.compute_ff_tokens()
        self._check()
        return forced

    def _move_to(self, drafts: tuple[int, ...]) -> bool:
        """Let the library be ahead by `drafts`; False where they may not come."""
        same = 0
        while same < min(len(drafts), len(self._ahead)) and drafts[same] == self._ahead[same]:
            same += 1
        if len(self._ahead) > same:
            self._matcher.rollback(len(self._ahead) - same)
            del self._ahead[same:]
        more = list(drafts[same:])
        if more:
            taken = self._matcher.try_consume_tokens(more)
            self._ahead += more[:taken]
        self._check()
        return len(self._ahead) == len(drafts)

    def _check(self) -> None:
        reason = problem(self._matcher)
        if reason is not None:
            raise _failed(reason)


def _failed(reason: str) -> RequestError:
    return RequestError(
        f"the answer cannot be kept to its grammar any further: {reason}",
        param=PARAM,
        code="grammar_failed",
    )
