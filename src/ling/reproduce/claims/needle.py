"""Needles in contexts up to 8 times as long as those of training, with YaRN and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claim import Claim, Context, Figure, Outcome, Result, Scale

FACTOR = 4
"""Of YaRN, and times the length of training: 128K of 32K tokens."""


def measure(context: Context) -> Result:
    from ...eval.needle_train import FULL, QUICK, train_and_measure

    course = {"full": FULL, "quick": QUICK}[context["course"]]
    code, result = train_and_measure(context.work, course, context.seed, context.log)
    if code:
        raise KeyboardInterrupt
    return judged(result)


def judged(result: dict[str, Any]) -> Result:
    """What the shares of a measured grid show."""
    trained, rows = result["trained_length"], result["rows_of_a_length"]
    scalings = {scaling["yarn"]: scaling for scaling in result["scalings"]}
    plain, claimed = scalings.pop(1), scalings[FACTOR]
    to = {factor: scaling["works_to"] or 0 for factor, scaling in scalings.items()}
    figures = [
        Figure(
            f"works to, {scaling['name']}",
            published,
            f"{reach(scaling)} tokens, {(scaling['works_to'] or 0) / trained:g} times those of "
            "training",
            "measured",
            scaling["works_to"],
        )
        for scaling, published in (
            (claimed, "128K, 4 times those of training"),
            (plain, "32K, those of training"),
            *((each, "") for each in scalings.values() if each is not claimed),
        )
    ]
    figures += [
        Figure(
            f"right at {length:,} tokens, {scaling['name']}",
            "",
            f"{share:.1%} of {rows} rows",
            "measured",
            share,
        )
        for scaling in result["scalings"]
        for length, share in zip(result["lengths"], scaling["by_length"], strict=True)
    ]
    return Result(
        figures,
        _outcome(plain["works_to"] or 0, to, trained),
        f"A length works where at least {result['works']:.0%} of its rows are right, over all "
        f"depths. Trained at {trained} tokens, the model works to {reach(plain)} without YaRN "
        f"and to {reach(claimed)} with factor {FACTOR}, that of the claim; "
        f"{_learned(plain['works_to'] or 0, trained)}.",
        {"needle": result},
    )


def _outcome(plain: int, to: dict[float, int], trained: int) -> Outcome:
    """By how far it works without YaRN, and with each factor."""
    if plain < trained:
        return "open"
    if to[FACTOR] >= FACTOR * trained:
        return "agrees"
    return "partly" if max(to.values()) > plain else "disagrees"


def _learned(plain: int, trained: int) -> str:
    if plain < trained:
        return "it did not learn the task at that length, so longer ones show nothing of YaRN"
    return f"the claim is {FACTOR} times the length of training"


def reach(scaling: dict[str, Any]) -> str:
    """Up to where a scaling works."""
    to = scaling["works_to"]
    return "none" if to is None else f"{to:,}"


def draw(data: dict[str, Any], path: Path) -> None:
    from ...eval.needle_plot import draw as plot

    if plot(data["needle"], path) is None:
        raise ImportError("matplotlib")


CLAIM = Claim(
    name="needle",
    title="A needle in a long context, with YaRN",
    published="Trained up to 32K tokens, needles are found up to 128K with YaRN factor 4.",
    source="model card of Ling-flash-2.0",
    differs="A model of a million parameters instead of a hundred billion, and needles of two "
    "random token ids in random ids instead of sentences in text: it was trained on nothing else, "
    "at 256 tokens (128 in quick mode). Its heads rotate all of their 32 channels, the family's "
    "half of 128.",
    quick=Scale(budget_s=150, settings={"course": "quick"}),
    full=Scale(budget_s=600, settings={"course": "full"}),
    measure=measure,
    draw=draw,
    by_hand="ling eval needle MODEL --lengths 32768,65536,131072 --yarn 4 --text PROSE --chat",
)
