"""What a step will take, learned from those that ran, so that it can be made to end in time.

The time of a step is a sum of: its tokens, the pairs of a token and a position that it attends to,
the rows whose scores are chosen from, the share of the experts that its tokens reach, and a
constant. The factors are fitted to the mean of each size of step; those seen lately count more, as
other programs come and go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

# Before anything has run: about what a model of 16B parameters takes for a token of a prompt on two
# cores.
START_S_PER_TOKEN = 0.002
SMOOTHING = 0.3
SWEEPS = 8
# Weight of a size for each step since it was last seen, and the least that it keeps.
AGING, LEAST_WEIGHT = 0.9, 0.01
MANY = 1 << 20


class StepLoad(NamedTuple):
    """What a step has to compute."""

    tokens: int
    pairs: float
    """Positions attended to, summed over the tokens."""
    chosen: int
    """Rows whose scores choose a token."""


@dataclass(slots=True)
class _Mean:
    """The mean of steps of about one size: their features, and their seconds."""

    features: list[float]
    seconds: float
    last: int = 0
    """Number of the last such step."""


class StepCost:
    """Learned seconds of a step; `expert_share` is the share of the experts that one token reaches,
    1 for a dense model."""

    def __init__(self, expert_share: float = 1.0) -> None:
        self._expert_share = min(max(expert_share, 0.0), 1.0)
        self._means: dict[tuple[int, int], _Mean] = {}
        # Per token, pair, chosen row, all experts, step.
        self._factors = [START_S_PER_TOKEN, 0.0, 0.0, 0.0, 0.0]
        self._is_fitted, self._count = True, 0

    def observe(self, load: StepLoad, seconds: float) -> None:
        """Learn from a step that ran."""
        size = load.tokens.bit_length(), load.chosen.bit_length()
        features = self._features(load)
        mean = self._means.get(size)
        if mean is None:
            mean = self._means[size] = _Mean(features, seconds)
        else:
            pairs = zip(mean.features, features, strict=True)
            mean.features = [old + SMOOTHING * (new - old) for old, new in pairs]
            mean.seconds += SMOOTHING * (seconds - mean.seconds)
        self._count += 1
        mean.last, self._is_fitted = self._count, False

    def seconds(self, load: StepLoad) -> float:
        """Expected time of a step."""
        pairs = zip(self._fitted(), self._features(load), strict=True)
        return sum(factor * feature for factor, feature in pairs)

    def prompt_seconds(self, tokens: int, context: int) -> float:
        """Expected time that a part of a prompt, behind `context` positions, adds to a step which
        reads all experts anyway."""
        per_token, per_pair, *_ = self._fitted()
        return tokens * (per_token + per_pair * (context + tokens / 2))

    def prompt_tokens(self, seconds: float, context: int) -> int:
        """The most tokens with at most these `prompt_seconds`."""
        if math.isinf(seconds):
            return MANY
        per_token, per_pair, *_ = self._fitted()
        each, bend = per_token + per_pair * context, per_pair / 2
        # The positive root of bend * n² + each * n = seconds, in a form without cancellation.
        below = each + math.sqrt(each * each + 4 * bend * max(seconds, 0.0))
        return MANY if below <= 0 else min(MANY, int(2 * max(seconds, 0.0) / below + 1e-6))

    def _features(self, load: StepLoad) -> list[float]:
        reached = 1.0 - (1.0 - self._expert_share) ** load.tokens
        return [float(load.tokens), load.pairs, float(load.chosen), reached, 1.0]

    def _fitted(self) -> list[float]:
        """The factors of least squared relative errors, none below zero (coordinate descent from
        the last ones, so that what the steps do not tell apart stays as it was)."""
        if self._is_fitted:
            return self._factors
        self._is_fitted = True
        weights, rows = [], []
        for m in self._means.values():
            if m.seconds > 0:
                weights.append(max(LEAST_WEIGHT, AGING ** (self._count - m.last)))
                rows.append([x / m.seconds for x in m.features])
        n = range(len(self._factors))
        weighted = [[w * x for x in row] for w, row in zip(weights, rows, strict=True)]
        squares = [
            [sum(a[i] * b[j] for a, b in zip(weighted, rows, strict=True)) for j in n] for i in n
        ]
        sums = [sum(row[i] for row in weighted) for i in n]
        w = self._factors
        for _ in range(SWEEPS):
            for i in n:
                if squares[i][i] > 0:
                    rest = sum(squares[i][j] * w[j] for j in n if j != i)
                    w[i] = max(0.0, (sums[i] - rest) / squares[i][i])
        return w
