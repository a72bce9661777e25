"""A bound on reasoning: after so many tokens of it, its end is forced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..data import reasoning as tags
from .spec import Reasoning

if TYPE_CHECKING:
    from ..infer.constraint import Constraint

OPEN, CLOSE = tags.OPEN.encode(), tags.CLOSE.encode()


class ThinkingTokens(NamedTuple):
    """What a bound on reasoning has to know of a tokenizer."""

    token_bytes: Callable[[int], bytes]
    closing: tuple[int, ...]
    """Ids of the text that ends reasoning."""
    vocab_size: int


class _State(NamedTuple):
    """Where an answer is. `text` is its beginning while `<think>` may still come, then as much of
    its end as may be the beginning of `</think>`."""

    phase: str
    text: bytes = b""
    num_tokens: int = 0


class ThinkingBudget:
    """Lets an answer think for `budget` tokens, within the `inner` constraint where there is one.

    Reasoning is between `<think>` and `</think>` at the beginning of an answer; where the prompt
    has opened it ("open"), it begins with the answer.
    """

    def __init__(
        self,
        budget: int,
        reasoning: Reasoning,
        tokens: ThinkingTokens,
        inner: Constraint | None = None,
    ) -> None:
        self._budget, self._tokens, self._inner = budget, tokens, inner
        self._state = _State("thinking" if reasoning == "open" else "before")

    @property
    def is_done(self) -> bool:
        """Whether the inner constraint is complete."""
        return self._inner is not None and self._inner.is_done

    def mask(self, drafts: Sequence[int]) -> np.ndarray | None:
        """As `Constraint.mask`: one token only while reasoning is being closed."""
        state = self._state
        for token in drafts:
            state = self._next(state, token)
        closing = self._closing(state)
        if closing:
            return self._only(closing[0])
        return None if self._inner is None else self._inner.mask(drafts)

    def accept(self, token_id: int) -> None:
        """Continue the answer."""
        self._state = self._next(self._state, token_id)
        if self._inner is not None:
            self._inner.accept(token_id)

    def forced(self) -> Sequence[int]:
        """The end of reasoning once the budget is used; else what the inner constraint forces."""
        closing = self._closing(self._state)
        if closing or self._inner is None:
            return closing
        # Within reasoning text is free, so what is forced there lies before or behind it.
        return self._inner.forced() if self._state.phase != "thinking" else []

    def _closing(self, state: _State) -> tuple[int, ...]:
        if state.phase == "closing":
            return self._tokens.closing[state.num_tokens :]
        is_over = state.phase == "thinking" and state.num_tokens >= self._budget
        # Half a character is finished first.
        return self._tokens.closing if is_over and _is_whole(state.text) else ()

    def _next(self, state: _State, token: int) -> _State:
        if state.phase == "behind":
            return state
        closing = self._closing(state)
        if closing:
            left = len(closing) - 1
            count = len(self._tokens.closing) - left
            return _State("closing", b"", count) if left else _State("behind")
        text = state.text + self._tokens.token_bytes(token)
        if state.phase == "thinking":
            return _thinking(text, state.num_tokens + 1)
        head = text.lstrip(b" \n\t\r")
        if head.startswith(OPEN):
            return _thinking(head[len(OPEN) :], 0)
        return _State("before", text) if OPEN.startswith(head) else _State("behind")

    def _only(self, token: int) -> np.ndarray:
        mask = np.zeros((self._tokens.vocab_size + 31) // 32, np.uint32)
        mask[token >> 5] = 1 << (token & 31)
        return mask


def _is_whole(text: bytes) -> bool:
    """Whether bytes end with a whole UTF-8 character."""
    for back in range(1, min(len(text), 3) + 1):
        byte = text[-back]
        if byte >= 0xC0:
            return back >= 2 + (byte >= 0xE0) + (byte >= 0xF0)
        if byte < 0x80:
            break
    return True


def _thinking(text: bytes, count: int) -> _State:
    if CLOSE in text:
        return _State("behind")
    return _State("thinking", text[-(len(CLOSE) - 1) :], count)
