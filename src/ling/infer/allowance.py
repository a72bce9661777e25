"""How much of prompts a step takes, so that nobody waits long for the step to end."""

from __future__ import annotations

from dataclasses import dataclass

from .step_cost import StepCost, StepLoad

MIN_TOKENS = 32
"""A smaller part of a prompt is not worth reading the experts for."""
# A step that mostly reads weights takes as much again for tokens, up to this many budgets.
MOST_BUDGETS = 1.8
SHORTEST_S = 1e-6
"""Less than any token takes."""


@dataclass
class Part:
    """What may still be taken; what is taken from a part is taken from its `whole`, too."""

    seconds: float
    tokens: int
    whole: Part | None = None

    def split(self, count: int) -> Part:
        """One of `count` equal parts of what is left."""
        return Part(self.seconds / count, -(-self.tokens // count), self)

    def charge(self, seconds: float, tokens: int) -> None:
        """Take."""
        self.seconds -= seconds
        self.tokens -= tokens
        if self.whole is not None:
            self.whole.charge(seconds, tokens)


class Allowance:
    """What the prompts of a step may take: its rows, and, while another caller waits, the time that
    its decodes leave of `budget_s`.

    A step that reads all experts costs about the same for a few tokens and for many, so it may take
    up to `MOST_BUDGETS`; one that exceeds even those is followed by one without prompts.
    """

    def __init__(self, budget_s: float, cost: StepCost) -> None:
        self.budget_s, self.cost = budget_s, cost
        self.left = Part(0.0, 0)
        self._is_untouched = True
        self._has_exceeded = False

    @property
    def is_used(self) -> bool:
        """Whether nothing is left."""
        return self.left.tokens <= 0 or self.left.seconds <= 0

    def begin(self, decodes: StepLoad, tokens: int, is_bound: bool) -> None:
        """A step with these decodes and at most `tokens` of prompts, which `is_bound` by time.

        One that is not still takes no longer than the same tokens at the beginning of a prompt,
        where there is little to attend to, or half of the budget: who comes meanwhile waits for the
        end of it."""
        if is_bound:
            seconds = self._seconds(decodes, tokens)
        else:
            seconds = max(self.budget_s / 2, self.cost.prompt_seconds(tokens, 0))
        self.left = Part(seconds, tokens)
        self._is_untouched = True

    def _seconds(self, decodes: StepLoad, rows: int) -> float:
        tokens = MIN_TOKENS
        for _ in range(2):  # the more tokens, the more experts are read beside
            base = self._base(decodes, tokens)
            most = max(self.budget_s, min(2 * base, MOST_BUDGETS * self.budget_s))
            fits = self.cost.prompt_tokens(most - base, 0)
            tokens = max(MIN_TOKENS, min(rows, fits))
        # Tokens may seem to cost nothing, where others use the machine: a step that may take some
        # must not be left with nothing.
        least = max(self.cost.prompt_seconds(MIN_TOKENS, 0), SHORTEST_S)
        if most - base >= least:
            self._has_exceeded = False
            return most - base
        self._has_exceeded = not (self._has_exceeded and decodes.tokens)
        return least if self._has_exceeded else 0.0

    def _base(self, decodes: StepLoad, tokens: int) -> float:
        """Seconds of the step but for the time that its prompt tokens themselves add."""
        pairs = decodes.pairs + tokens * tokens / 2
        load = StepLoad(decodes.tokens + tokens, pairs, decodes.chosen + 1)
        return self.cost.seconds(load) - self.cost.prompt_seconds(tokens, 0)

    def take(self, part: Part, context: int, remaining: int, least: int) -> int:
        """How many of the `remaining` tokens of a prompt behind `context` positions come now; these
        are charged. Fewer than `least` are none, but the first of a step always gets these."""
        if self.is_used or remaining <= 0:
            return 0
        least = min(least, remaining, self.left.tokens)
        tokens = min(remaining, part.tokens, self.cost.prompt_tokens(part.seconds, context))
        if tokens < least:
            fits = self.cost.prompt_seconds(least, context) <= self.left.seconds
            tokens = least if fits or self._is_untouched else 0
        if tokens > 0:
            self._is_untouched = False
            part.charge(self.cost.prompt_seconds(tokens, context), tokens)
        return tokens
