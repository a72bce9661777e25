"""What keeps a request's tokens to a grammar, as the engine sees it: token ids only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from .request import Request

MAX_FORCED = 64
"""Forced tokens that one step verifies for a request, so that others do not wait long for it."""
MAX_FORCED_WORK = 1 << 17
"""The same, times all that are forced: a mask before a text that must come reads all of it."""


class Constraint(Protocol):
    """The state of one request. Any method may raise `RequestError`, which ends this request."""

    @property
    def is_done(self) -> bool:
        """The answer is complete: the request stops."""

    def mask(self, drafts: Sequence[int]) -> np.ndarray | None:
        """Which ids may follow the tokens so far and `drafts`, as a bit set: bit i % 32 of word
        i // 32 (uint32) for id i; None allows all. The same for the same tokens, always."""

    def accept(self, token_id: int) -> None:
        """Continue with a token that the mask allows."""

    def forced(self) -> Sequence[int]:
        """Tokens that must come next, none where there is a choice."""


class TimedConstraint:
    """A constraint whose masks are timed; `observe` gets the seconds of each."""

    def __init__(self, inner: Constraint, observe: Callable[[float], None]) -> None:
        self._inner, self._observe = inner, observe
        self.accept, self.forced = inner.accept, inner.forced

    @property
    def is_done(self) -> bool:
        """See `Constraint`."""
        return self._inner.is_done

    def mask(self, drafts: Sequence[int]) -> np.ndarray | None:
        """See `Constraint`."""
        begin = time.perf_counter()
        mask = self._inner.mask(drafts)
        self._observe(time.perf_counter() - begin)
        return mask


def allows(mask: np.ndarray | None, token_id: int) -> bool:
    """Whether a mask has a token."""
    return mask is None or bool(mask[token_id >> 5] >> (token_id & 31) & 1)


def leaves_other(mask: np.ndarray | None, ids: np.ndarray) -> bool:
    """Whether a mask has any token beside `ids`."""
    if mask is None:
        return True
    others = mask.copy()
    for i in ids[ids < 32 * len(mask)].tolist():
        others[i >> 5] &= ~np.uint32(1 << (i & 31))
    return bool(others.any())


def is_single(mask: np.ndarray | None) -> bool:
    """Whether a mask has one token only."""
    if mask is None:
        return False
    words = mask[mask != 0].tolist()
    return len(words) == 1 and words[0] & (words[0] - 1) == 0


def allowed_drafts(constraint: Constraint | None, drafts: list[int]) -> list[int]:
    """Drafts up to the first that may not come."""
    if constraint is None:
        return drafts
    for i, token in enumerate(drafts):
        if not allows(constraint.mask(drafts[:i]), token):
            return drafts[:i]
    return drafts


def draft_forced(request: Request) -> None:
    """Draft the tokens that must come next. They cost no pass of a layer and are never wrong, so
    they are not judged, and the next step verifies all of them."""
    if request.constraint is None or request.finish_reason is not None:
        return
    forced = request.constraint.forced()
    # The step gives one token more than it has drafts.
    room = request.max_tokens - request.num_output_tokens - 1
    most = min(room, MAX_FORCED, MAX_FORCED_WORK // max(len(forced), 1))
    request.drafts = list(forced[: max(most, 0)])
    request.num_forced = len(request.drafts)
