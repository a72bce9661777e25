"""How much of which prompt a step reads: equal parts for the keys, and turns within a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .allowance import MIN_TOKENS, Allowance, Part
from .request import Request
from .turns import ShareKey, Turns, first_in_turn


class PromptParts:
    """The prompts of a step, and how many tokens of each it reads.

    `start` lets a waiting request run, and says whether there was room for it; `is_open` whether
    those of a key may start at all.
    """

    def __init__(
        self,
        turns: Turns,
        allowance: Allowance,
        start: Callable[[Request], bool],
        is_open: Callable[[ShareKey], bool],
    ) -> None:
        self._turns, self._allowance = turns, allowance
        self._start, self._is_open = start, is_open
        self.tokens: dict[Request, int] = {}
        """What was planned since `begin`."""
        self._begun: dict[int, list[Request]] = {}

    def begin(self, running: Iterable[Request]) -> None:
        """A new step."""
        self.tokens, self._begun = {}, {}
        for request in running:
            if not request.is_decoding:
                self._begun_of(self._turns.key(request)).append(request)

    def plan(self, priority: int) -> None:
        """Give each key of a priority an equal part of what the step still allows, then what is
        left over to those that can use it."""
        keys = self._turns.in_turn(priority)
        for i, key in enumerate(keys):
            self._serve(key, self._allowance.left.split(len(keys) - i))
        for key in keys:
            self._fill(key, self._allowance.left)
        for key in keys:
            own = [(r, self.tokens[r]) for r in self._begun_of(key) if r in self.tokens]
            if own:
                self._turns.served(key, own)

    def _serve(self, key: ShareKey, part: Part) -> None:
        """Half of a key's part goes to its shortest prompts, so that they pass long ones, the rest
        to the one whose turn it is."""
        begun = self._begun_of(key)
        first = first_in_turn((*key.waiting, *begun))
        if first is None:
            return
        can_run = first in begun or self._begin(key, first)
        if not key.passed_over:
            self._fill(key, part.split(2))
        if can_run:
            self._take(first, part)
            key.passed_over = first not in self.tokens

    def _fill(self, key: ShareKey, part: Part) -> None:
        """Give a part to the prompts of a key, those with the fewest tokens left first."""
        if self._is_full(part):
            return
        begun = set(self._begun_of(key))
        prompts = [*begun, *(key.waiting if self._is_open(key) else ())]
        for request in sorted(prompts, key=_num_left):
            if self._is_full(part):
                return
            if request in begun or self._begin(key, request):
                self._take(request, part)

    def _begin(self, key: ShareKey, request: Request) -> bool:
        if not self._start(request):
            return False
        self._begun_of(key).append(request)
        return True

    def _take(self, request: Request, part: Part) -> None:
        planned = self.tokens.get(request, 0)
        context = request.num_computed_tokens + planned
        left, least = len(request.tokens) - context, 0 if planned else MIN_TOKENS
        tokens = self._allowance.take(part, context, left, least)
        if tokens:
            self.tokens[request] = planned + tokens

    def _is_full(self, part: Part) -> bool:
        return self._allowance.is_used or part.tokens <= 0 or part.seconds <= 0

    def _begun_of(self, key: ShareKey) -> list[Request]:
        return self._begun.setdefault(id(key), [])


def _num_left(request: Request) -> tuple[int, int]:
    return len(request.tokens) - request.num_computed_tokens, request.id
