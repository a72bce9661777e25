"""Needles of token ids: for models that were trained on no text.

A row is `filler KEY answer filler KEY`, and the model is to continue with the answer. Rows are a
function of seed, length, depth and number alone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import UsageError

KEY = (1, 2)
"""What stands before the needle, and at the end of the row; it is nowhere else in it."""
FILLER = range(4, 256)
"""Ids that fillers and answers are drawn from: byte tokens in every vocabulary of the family."""
ANSWER = 2
LEAST = 2 * (len(KEY) + ANSWER) + 1


@dataclass(frozen=True)
class Row:
    """A prompt, as token ids, and what is to follow: token ids, or the digits of a number."""

    prompt: list[int]
    answer: list[int] | str


class Needles(Protocol):
    """Makes rows, and reads answers."""

    @property
    def max_tokens(self) -> int:
        """Tokens of an answer at most."""

    def row(self, length: int, depth: float, number: int, seed: int) -> Row:
        """Row `number` of `length` tokens, answer included, with the needle behind a share of
        `depth` of what surrounds it."""

    def is_right(self, row: Row, output: Any) -> bool:
        """Whether an output of `LLM.generate` has the answer, all of it."""

    def described(self) -> dict[str, Any]:
        """What decides the rows, besides seed, length, depth and number."""


def random_of(seed: int, length: int, depth: float, number: int) -> random.Random:
    """The randomness of a row."""
    return random.Random(f"needle {seed} {length} {depth:.4f} {number}")


def token_ids(length: int, depth: float, draw: random.Random) -> list[int]:
    """All ids of a row, of which the last `ANSWER` are the answer."""
    filler = draw.choices(FILLER, k=length - LEAST + 1)
    answer = draw.choices(FILLER, k=ANSWER)
    at = round(depth * len(filler))
    return [*filler[:at], *KEY, *answer, *filler[at:], *KEY, *answer]


@dataclass(frozen=True)
class TokenNeedles:
    """Two random ids behind a key of two, among random ids."""

    max_tokens: int = ANSWER

    def row(self, length: int, depth: float, number: int, seed: int) -> Row:
        """Raises `UsageError` for a length that has no room for a filler."""
        if length < LEAST:
            raise UsageError(f"a needle needs a length of at least {LEAST} tokens, not {length}")
        ids = token_ids(length, depth, random_of(seed, length, depth, number))
        return Row(ids[:-ANSWER], ids[-ANSWER:])

    def is_right(self, row: Row, output: Any) -> bool:
        """All ids of the answer, in their order."""
        return list(output.token_ids) == row.answer

    def described(self) -> dict[str, Any]:
        """Key, filler and length of the answer."""
        filler = [FILLER.start, FILLER.stop - 1]
        return {"kind": "tokens", "key": list(KEY), "filler": filler, "answer": ANSWER}


def training_row(
    length: int, draw: random.Random, times: int = 2
) -> tuple[list[int], Sequence[int]]:
    """Ids and labels (not shifted, -100 where no loss counts) of a row to learn from.

    Key and answer stand in it `times` times, anywhere and at the end, and are learned from the
    second on: 2 is the row that is measured.
    """
    found = len(KEY) + ANSWER
    filler = draw.choices(FILLER, k=length - times * found)
    answer = draw.choices(FILLER, k=ANSWER)
    ids: list[int] = []
    labels: list[int] = []
    places = sorted(draw.randint(0, len(filler)) for _ in range(times - 1))
    for number, (start, stop) in enumerate(itertools.pairwise([0, *places, len(filler)])):
        ids += [*filler[start:stop], *KEY, *answer]
        told = answer if number else [-100] * ANSWER
        labels += [-100] * (stop - start + len(KEY)) + told
    return ids, labels
