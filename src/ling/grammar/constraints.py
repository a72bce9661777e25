"""The constraints of a model's answers: grammars and bounds on reasoning, made at first use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..data.reasoning import CLOSE
from ..data.tokenizer import Tokenizer
from ..errors import RequestError
from .compile import Grammar, GrammarCompiler
from .spec import PARAM, Reasoning, StructuredOutputs
from .thinking import ThinkingBudget, ThinkingTokens

if TYPE_CHECKING:
    from ..infer.constraint import Constraint


class Constraints:
    """Any thread may use it. Raises `RequestError` for a model without a tokenizer."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        vocab_size: int,
        stop_token_ids: Sequence[int],
        on_compiled: Callable[[float], None] | None = None,
    ) -> None:
        self._tokenizer, self._vocab_size, self._stops = tokenizer, vocab_size, stop_token_ids
        self._on_compiled = on_compiled
        self._compiler: GrammarCompiler | None = None
        self._making = threading.Lock()

    def prepare(self) -> GrammarCompiler:
        """The compiler, made where there is none yet."""
        with self._making:
            if self._compiler is None:
                tokenizer = self._required(PARAM)
                self._compiler = GrammarCompiler(
                    tokenizer, self._vocab_size, self._stops, self._on_compiled
                )
            return self._compiler

    def compile(self, spec: StructuredOutputs, reasoning: Reasoning = "none") -> Grammar:
        """See `GrammarCompiler.compile`."""
        return self.prepare().compile(spec, reasoning)

    def of(
        self, spec: StructuredOutputs | None, reasoning: Reasoning, budget: int | None
    ) -> Constraint | None:
        """What keeps one answer to a specification and to a bound on its reasoning, which may be in
        a leading `<think>` block where nothing else is said."""
        inner = None if spec is None else self.compile(spec, _where(reasoning, budget)).matcher()
        if budget is None:
            return inner
        tokens = self._thinking_tokens()
        return ThinkingBudget(budget, _where(reasoning, budget), tokens, inner)

    def _thinking_tokens(self) -> ThinkingTokens:
        tokenizer = self._required("thinking_budget")
        tag = tokenizer.token_to_id(CLOSE)
        before, behind = tokenizer.encode("\n"), tokenizer.encode("\n\n")
        closing = tokenizer.encode(f"\n{CLOSE}\n\n") if tag is None else [*before, tag, *behind]
        return ThinkingTokens(tokenizer.token_bytes, tuple(closing), self._vocab_size)

    def _required(self, param: str) -> Tokenizer:
        if self._tokenizer is None:
            raise RequestError(f"`{param}` needs a model with a tokenizer", param=param)
        return self._tokenizer


def _where(reasoning: Reasoning, budget: int | None) -> Reasoning:
    return "auto" if reasoning == "none" and budget is not None else reasoning
