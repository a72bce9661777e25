"""Leverage over dense models: the published formula, and what a committed sweep measured."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...presets import preset
from ...scaling import laws
from ..claim import Claim, Context, Figure, Result, Scale
from ..committed import NOT_HERE, committed
from ..picture import drawing

TOKENS, SEQ_LENGTH = 20e12, 4096
"""Of Ling-mini's training."""
RESULTS = "*ling-grid*.jsonl"
_UNKNOWN = ", of which not all are known"


def measure(context: Context) -> Result:
    at = laws.CLAIM
    claimed = laws.leverage(at["activation_ratio"], at["granularity"], at["flops"])
    mini = preset("ling-mini-2.0")
    granularity = laws.granularity(mini)
    assert granularity is not None
    ratio = laws.activation_ratio(mini)
    trained = laws.token_flops(mini, SEQ_LENGTH).without_head * TOKENS
    figures = [
        Figure("A 3.1%, G 12, 1e22 FLOPs", "over 7", f"{claimed:.2f}", "formula", claimed),
        *(
            Figure(
                f"Ling-mini (A {ratio:.1%}, G {granularity:g}), {flops:.2g} FLOPs{what}",
                "over 7",
                f"{of_mini:.2f}",
                "formula",
                of_mini,
            )
            for flops, what, of_mini in (
                (flops, what, laws.leverage(ratio, granularity, flops))
                for flops, what in ((at["flops"], ""), (trained, ", those of 20T tokens"))
            )
        ),
    ]
    found = committed(RESULTS)
    if found is None:
        return Result(
            figures,
            "agrees" if claimed > at["at_least"] else "disagrees",
            "This is the published formula with the claim's own numbers, so it shows that "
            "formula and claim belong together, and nothing more. By it Ling-mini itself is at "
            f"{figures[1].here} with that compute and at {figures[2].here} with its own. Measured "
            f"leverage is read from results of `ling scaling sweep ling-grid`. {NOT_HERE}",
            {"read": []},
        )
    read = measured(found, context.seed)
    figures[:0] = [
        Figure(
            f"measured, {r['family']} at {r['flops']:.1e} FLOPs",
            f"{r['law']:.2f} by the law" if r["law"] else "",
            _around(r),
            "committed",
            r["leverage"],
        )
        # The sparsest family, nearest to the claim's, first.
        for r in sorted(read, key=lambda r: (Fraction(r["family"]), -r["flops"]))
    ]
    above = [r for r in read if r["leverage"] > 1]
    return Result(
        figures,
        _outcome(read),
        f"Read at equal loss between the runs of {found.name}: {len(above)} of {len(read)} points "
        f"are above 1. The claim is at {at['flops'] / max(r['flops'] for r in read):.0e} times as "
        "much compute; what can be seen here is whether leverage is above 1 and grows with "
        f"compute by more than its intervals{_UNKNOWN * _is_noise_unknown(read)}."
        if read
        else f"No loss of {found.name} was reached by dense models and by mixtures of experts.",
        {"read": read},
    )


def measured(results: Path, seed: int) -> list[dict[str, Any]]:
    """Leverage of every point that can be read, embedding and head not counted."""
    from ...scaling.fit import fit
    from ...scaling.results import read_rows

    found = fit(read_rows(results), seed=seed)
    return [r._asdict() for r in found.counts["without_head"].leverage.read]


def _is_noise_unknown(read: list[dict[str, Any]]) -> bool:
    return any(r["leverage_interval"] is None for r in read)


def _outcome(read: list[dict[str, Any]]) -> Any:
    """Whether leverage ends above 1 in every family and grows with compute, or ends below 1 and
    the published law: by more than its intervals, which are unknown without second seeds. A
    family that falls from one point to a later one by more than these does not grow."""
    by_family: dict[str, list[dict[str, Any]]] = {}
    for r in sorted(read, key=lambda r: r["flops"]):
        by_family.setdefault(r["family"], []).append(r)
    families = list(by_family.values())
    if families and all(_is_below(points[-1]) for points in families):
        return "disagrees"
    return "agrees" if families and all(map(_grows, families)) else "open"


def _grows(points: list[dict[str, Any]]) -> bool:
    intervals = [r["leverage_interval"] for r in points]
    if None in intervals:
        return False
    falls = any(after[1] < before[0] for before, after in combinations(intervals, 2))
    return not falls and intervals[-1][0] > max(1.0, intervals[0][1])


def _is_below(last: dict[str, Any]) -> bool:
    interval = last["leverage_interval"]
    return interval is not None and interval[1] < min(1.0, last["law"] or 1.0)


def _around(r: dict[str, Any]) -> str:
    interval = r["leverage_interval"]
    text = f"{r['leverage']:.2f}"
    return text if interval is None else f"{text} [{interval[0]:.2f}, {interval[1]:.2f}]"


def draw(data: dict[str, Any], path: Path) -> None:
    with drawing(path) as axes:
        span = [10 ** (13 + k / 10) for k in range(96)]
        for name, a, g in (
            ("A 3.5%, G 8 (Ling-mini)", 9 / 257, 8.0),
            ("A 3.1%, G 12", 0.031, 12.0),
        ):
            axes.plot(span, [laws.leverage(a, g, c) for c in span], label=f"law, {name}")
        for family in sorted({r["family"] for r in data["read"]}):
            points = [r for r in data["read"] if r["family"] == family]
            x, y = ([r[key] for r in points] for key in ("flops", "leverage"))
            around = [r["leverage_interval"] or (r["leverage"],) * 2 for r in points]
            errors = np.abs(np.array(around).T - y)
            axes.errorbar(x, y, errors, fmt="o", capsize=3, label=f"measured, {family}")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.axhline(
            7, color="grey", linewidth=0.8, linestyle="--", label="claimed: over 7 at 1e22"
        )
        axes.set(xscale="log", xlabel="compute (FLOPs)", ylabel="times a dense model's compute")
        axes.legend(fontsize=8)


CLAIM = Claim(
    name="leverage",
    title="Leverage over dense models",
    published="A mixture of experts as good as a dense model of over 7 times the compute, at 1e22 "
    "FLOPs, 3.1% activated, granularity 12.",
    source="arXiv 2507.17702; README",
    differs="The formula is evaluated as published. Measured are models of under two million "
    "activated parameters, at compute where the law itself gives about 1.",
    quick=Scale(budget_s=10),
    full=Scale(budget_s=30),
    measure=measure,
    draw=draw,
    by_hand="ling scaling sweep ling-grid --out runs/ling-grid",
)
