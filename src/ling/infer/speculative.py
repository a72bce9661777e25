"""How many tokens to draft: measured, not assumed.

A verified draft saves a step, but a step of several rows reads more experts than one of a single
row, and drafting itself costs. Whether it pays depends on model, text and batch, so each number of
drafts is tried now and then and the fastest is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TRY_STEPS = 8
KEEP_STEPS = 200
SMOOTHING = 0.5


@dataclass
class _Arm:
    """One number of drafts: its measured speed, and the run that is being measured."""

    tokens_per_s: float | None = None
    tokens: float = 0.0
    seconds: float = 0.0

    def close(self) -> None:
        if self.seconds > 0:
            rate = self.tokens / self.seconds
            old = self.tokens_per_s
            self.tokens_per_s = rate if old is None else old + SMOOTHING * (rate - old)
        self.tokens = self.seconds = 0.0


@dataclass
class _Bandit:
    """The choice for batches of about one size."""

    arms: list[_Arm]
    drafts: int = 0
    left: int = 0
    probe: int = 0
    steps: int = field(default=0)

    def choose(self) -> int:
        if self.left > 0:
            return self.drafts
        self.arms[self.drafts].close()
        unknown = [k for k, arm in enumerate(self.arms) if arm.tokens_per_s is None]
        best = max(range(len(self.arms)), key=lambda k: self.arms[k].tokens_per_s or 0.0)
        if unknown:
            self.drafts, self.left = unknown[-1], TRY_STEPS
        elif self.drafts == best and self.steps >= KEEP_STEPS:
            self.probe = (self.probe + 1) % len(self.arms)
            self.drafts, self.left, self.steps = self.probe, TRY_STEPS, 0
        else:
            self.drafts, self.left = best, TRY_STEPS
        return self.drafts


class DraftPolicy:
    """Chooses between 0 and `most` drafts a step; always `most` when not `adaptive`."""

    def __init__(self, most: int, adaptive: bool) -> None:
        self.most, self.adaptive = most, adaptive
        self._bandits: dict[int, _Bandit] = {}

    def _bandit(self, batch: int) -> _Bandit:
        size = batch.bit_length()
        if size not in self._bandits:
            self._bandits[size] = _Bandit([_Arm() for _ in range(self.most + 1)], drafts=self.most)
        return self._bandits[size]

    def num_drafts(self, batch: int) -> int:
        """Drafts for each of `batch` requests in the next step."""
        return self._bandit(batch).choose() if self.adaptive else self.most

    def observe(self, batch: int, drafted: int, tokens: float, seconds: float) -> None:
        """A decode step of `batch` requests with `drafted` drafts each brought `tokens` a
        request.
        """
        bandit = self._bandit(batch)
        bandit.left -= 1
        bandit.steps += 1
        if drafted == bandit.drafts:  # not the step that still verifies what came before a switch
            bandit.arms[drafted].tokens += tokens
            bandit.arms[drafted].seconds += seconds
