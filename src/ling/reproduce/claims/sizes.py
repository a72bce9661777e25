"""Parameters of the released models, in all and activated, from their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model.size import parameter_counts
from ...presets import PRESETS, preset
from ...scaling.laws import activation_ratio
from ..claim import Claim, Context, Figure, Outcome, Result, Scale, together
from ..picture import drawing, paired_bars

PUBLISHED = {
    "ling-mini-2.0": {"total": "16B", "active": "1.4B", "active_non_embedding": "789M"},
    "ling-flash-2.0": {"total": "100B", "active": "6.1B", "active_non_embedding": "4.8B"},
    "ling-1t": {"total": "1T", "active": "51.0B"},
}
ROWS = {"ling-mini-2.0": 1, "ling-flash-2.0": 2, "ling-1t": 3}
WORDS = {
    "total": "parameters",
    "active": "activated",
    "active_non_embedding": "activated, without embedding and head",
}
TOLERANCE = 0.03
"""A published figure may be rounded by this much (16.26 billion are called 16B)."""


def measure(context: Context) -> Result:
    counts = {name: parameter_counts(preset(name)) for name in PRESETS}
    off = {
        (name, key): counts[name][key] / number(text) - 1
        for name, each in PUBLISHED.items()
        for key, text in each.items()
    }
    mini = preset("ling-mini-2.0")
    figures = [
        Figure(
            f"{name}, {WORDS[key]}",
            PUBLISHED.get(name, {}).get(key, ""),
            f"{counts[name][key]:,}",
            "counted",
            counts[name][key],
            ROWS.get(name, 0) if key == "total" else 0,
            judged(off, name) if name in ROWS and key == "total" else None,
        )
        for name in PRESETS
        for key in WORDS
    ]
    routed = mini.num_experts // mini.num_experts_per_tok
    figures += [
        Figure(
            "routed experts that a token uses",
            "1/32",
            f"1/{routed}",
            "counted",
            1 / routed,
            4,
            "agrees" if routed == 32 else "disagrees",
        ),
        Figure(
            "the same with the shared expert",
            "3.5%",
            f"{activation_ratio(mini):.2%}",
            "counted",
            activation_ratio(mini),
        ),
    ]
    worst = max(off, key=lambda which: abs(off[which]))
    outcomes = [each.outcome for each in figures if each.outcome is not None]
    return Result(
        figures,
        together(outcomes),
        "The configurations give the published sizes up to the rounding of these; farthest off is "
        f"{worst[0]}, {WORDS[worst[1]]}, by {off[worst]:+.1%}.",
        {"counts": {name: counts[name] for name in PUBLISHED}},
    )


def judged(off: dict[tuple[str, str], float], name: str) -> Outcome:
    """Whether all published counts of a model are ours, as they are rounded."""
    far = (abs(each) for (model, _), each in off.items() if model == name)
    return "agrees" if max(far) <= TOLERANCE else "disagrees"


def number(text: str) -> float:
    """A published size such as 1.4B."""
    return float(text[:-1]) * {"M": 1e6, "B": 1e9, "T": 1e12}[text[-1]]


def draw(data: dict[str, Any], path: Path) -> None:
    counts = data["counts"]
    with drawing(path) as axes:
        sides = {
            "in all": [c["total"] / 1e9 for c in counts.values()],
            "activated": [c["active"] / 1e9 for c in counts.values()],
        }
        paired_bars(axes, list(counts), sides)
        axes.set(yscale="log", ylabel="billions of parameters", ylim=(0.5, 4000))


CLAIM = Claim(
    name="sizes",
    title="Parameters, in all and activated",
    published="Ling-mini has 16B parameters of which a token uses 1.4B, Ling-flash 100B and 6.1B, "
    "Ling-1T 1T and 51.0B; 1/32 of the routed experts.",
    source="README, card of Ling-flash, report",
    differs="Nothing: counted from the configurations, as `ling inspect NAME` does, without "
    "the MTP layer and the router's biases.",
    quick=Scale(budget_s=2),
    full=Scale(budget_s=2),
    measure=measure,
    draw=draw,
)
