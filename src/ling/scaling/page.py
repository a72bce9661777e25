"""The page of a sweep: what was run, what was fitted, what was predicted and read, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import laws
from .equal_loss import Leverage
from .fit import COUNTS, Fit, Prediction
from .noise import COVERAGE, NO_PAIR, Noise
from .power_law import FittedPowerLaw
from .predict import number
from .surface import EXPONENT_LIMITS, Surface

_NO_LIMITS = (-math.inf, math.inf)
_TITLES = {"without_head": "Compute without the head", "with_head": "Compute with the head"}


def page(found: Fit, results: str, pictures: dict[str, Path]) -> str:
    """The whole page; `results` is the file's name, as the command that made the page has it."""
    parts = [
        _head(found, results),
        _runs(found),
        _picture(pictures, "loss", "Held-out loss over compute, with power laws of the frontier"),
        _picture(pictures, "budgets", "Held-out loss over size, a line for each budget"),
        _fits(found),
        _held_out(found.predictions, found.unpredicted),
        _leverage(found),
        _picture(pictures, "leverage", "Leverage over compute beside the published law"),
        _rates(found),
        _picture(pictures, "lr", "Held-out loss over learning rate"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right but for the first column."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _picture(pictures: dict[str, Path], name: str, caption: str) -> str:
    return f"![{caption}]({pictures[name].name})" if name in pictures else ""


def _around(
    found: tuple[float, float] | None,
    digits: str = ".3f",
    limits: tuple[float, float] = _NO_LIMITS,
) -> str:
    """An interval; an end that is, as printed, a limit of what was tried may be beyond."""
    if found is None:
        return "unknown"
    (low, high), (least, most) = ([f"{end:{digits}}" for end in pair] for pair in (found, limits))
    return f"{'≤ ' * (low == least)}{low} to {'≥ ' * (high == most)}{high}"


# ---- what was run ------------------------------------------------------------------------------


def _head(found: Fit, results: str) -> str:
    families = ", ".join(f"`{family}`" for family in found.selection.families)
    return (
        "# Scaling laws, measured\n\n"
        f"Made by `ling scaling fit {results}` from {len(found.selection.rows)} runs of "
        f"{families}. What is fitted and how: [scaling laws](../concepts/scaling.md). "
        f"Compute is that of training, embeddings not counted; losses are held-out ones, in nats "
        f"per token; intervals are meant to hold {COVERAGE:.0%}."
    )


def _runs(found: Fit) -> str:
    rows = [
        (
            row.run,
            f"{row.activation_ratio:.1%}",
            number(row.flops),
            number(row.flops_with_head),
            number(row.params_active_no_head),
            number(row.tokens),
            f"{row.lr:.3g}",
            f"{row.batch_tokens:,}",
            f"{row.final_loss:.4f}",
            "held out" if row.held_out else "",
        )
        for row in found.selection.rows
    ]
    head = [
        "run",
        "A",
        "FLOPs",
        "with head",
        "active, no head",
        "tokens",
        "lr",
        "batch",
        "loss",
        "",
    ]
    lines = ["## Runs", table(head, rows)]
    if found.selection.left_out:
        lines.append(table(["left out", "why"], found.selection.left_out))
    if found.notes:
        lines.append("\n".join(f"- {note}" for note in found.notes))
    if found.noise:
        lines.append(
            f"The loss of a run varies by {found.noise.sigma:.4f} nats from seed to seed (standard "
            f"deviation, from {found.noise.dof} difference{'s' * (found.noise.dof > 1)})."
        )
    else:
        lines.append(f"{NO_PAIR.capitalize()}, so the noise of a loss is not known.")
    return "\n\n".join(lines)


# ---- what was fitted ---------------------------------------------------------------------------


def _fits(found: Fit) -> str:
    parts = [
        "## Fits",
        "Loss as a power of compute along the frontier, the best size of each budget:",
    ]
    rows, reasons = [], []
    for name in COUNTS:
        for family, law in found.counts[name].power_laws.items():
            if isinstance(law, FittedPowerLaw):
                rows.append(_law_row(name, family, law))
            else:
                reasons.append(f"- `{family}`, {_TITLES[name].lower()}: not fitted, {law}")
    if rows:
        parts.append(table(["family", "compute", "L(C)", "exponent", "interval", "points"], rows))
    if any(row[-1] == "2" for row in rows):
        parts.append(
            "A law of two points goes through both: its interval has the noise of seeds in it, but "
            "nothing about whether a power law is the right form."
        )
    if reasons:
        parts.append("\n".join(reasons))
    parts.append(_frontier(found))
    parts.append(_surface(found.surface))
    return "\n\n".join(parts)


def _law_row(count: str, family: str, law: FittedPowerLaw) -> tuple[str, ...]:
    as_dict = law.as_dict()
    return (
        family,
        _TITLES[count].removeprefix("Compute "),
        f"{law.law.factor:.4g} · C^-{law.law.exponent:.4f}",
        f"{law.law.exponent:.4f}",
        _around(as_dict["exponent_interval"], ".4f"),
        str(law.points),
    )


def _frontier(found: Fit) -> str:
    """The best size of each budget beside the published allocation."""
    rows = []
    for p in found.frontier:
        best = laws.allocation(p.flops, "moe" if p.granularity else "dense")
        rows.append(
            (
                p.family,
                number(p.target_flops),
                p.size,
                number(p.flops_per_token),
                number(best.flops_per_token),
                number(p.tokens),
                number(best.tokens),
                f"{p.loss:.4f}",
                "an end of the sizes" if p.is_edge else "",
            )
        )
    head = ["family", "FLOPs", "best size", "FLOPs per token", "law", "tokens", "law", "loss", ""]
    return "The best sizes beside the published allocation:\n\n" + table(head, rows)


def _surface(surface: Surface | str) -> str:
    if isinstance(surface, str):
        return f"L(N, D) = E + A / N^α + B / D^β was not fitted: {surface}."
    d = surface.as_dict()
    rows = [
        (name, f"{d[key]:.3f}", _around(d[f"{key}_interval"], limits=limits))
        for name, key, limits in (
            ("E, loss that no size and no data takes away", "irreducible", _NO_LIMITS),
            ("α, of size", "alpha", EXPONENT_LIMITS),
            ("β, of tokens", "beta", EXPONENT_LIMITS),
            ("exponent of the best size over compute", "size_exponent", _NO_LIMITS),
        )
    ]
    return (
        f"L(N, D) = E + A / N^α + B / D^β of {d['runs']} runs, A and B for each family "
        "(N is active parameters without embedding and head):\n\n"
        + table(["", "value", "interval"], rows)
    )


# ---- what was predicted ------------------------------------------------------------------------


def _held_out(predictions: Sequence[Prediction], unpredicted: Sequence[str]) -> str:
    if not predictions:
        return "## Held-out runs\n\nNone that a fit could predict."
    rows = [
        (
            p.run,
            p.by,
            f"{p.loss:.4f}",
            f"{p.predicted:.4f}",
            f"{p.loss - p.predicted:+.4f}",
            _around(p.interval, ".4f"),
            {True: "yes", False: "**no**", None: "unknown"}[p.is_inside],
        )
        for p in predictions
    ]
    head = ["run", "predicted by", "loss", "predicted", "off by", "interval", "inside"]
    parts = ["## Held-out runs", table(head, rows), _verdict(predictions)]
    if any(p.by.endswith("smaller budgets") for p in predictions):
        parts.append(
            "A power law of smaller budgets predicts the largest budget of a family of which none "
            "is held out as a whole; the other fits see that budget. One of two budgets goes "
            "through both, whether or not its form is right."
        )
    if unpredicted:
        names = ", ".join(f"`{family}`" for family in unpredicted)
        parts.append(f"No fit could predict a held-out run of {names}.")
    return "\n\n".join(parts)


def _verdict(predictions: Sequence[Prediction]) -> str:
    lines = []
    for by in dict.fromkeys(p.by for p in predictions):
        judged = [p for p in predictions if p.by == by and p.is_inside is not None]
        inside = sum(bool(p.is_inside) for p in judged)
        if judged:
            count = f"{inside} of {len(judged)}"
            count = count if inside == len(judged) else f"**{count}**"
            lines.append(f"The {by} predicts {count} inside its own uncertainty.")
        else:
            lines.append(f"The uncertainty of the {by} is not known: {NO_PAIR}.")
    return " ".join(lines)


def _leverage(found: Fit) -> str:
    claim = laws.CLAIM
    there = laws.leverage(claim["activation_ratio"], claim["granularity"], claim["flops"])
    parts = [
        "## Leverage",
        "Compute of the dense model over that of the mixture of experts at the same loss, read at "
        "the losses of both frontiers, inside what both reached.",
    ]
    for name in COUNTS:
        parts += [f"### {_TITLES[name]}", *_read(found.counts[name].leverage, found.noise)]
    largest = max(p.flops for p in found.frontier)
    parts.append(
        f"The claim of {claim['at_least']:g} times belongs to {number(claim['flops'])} FLOPs (the "
        f"law gives {there:.2f} there for A = {claim['activation_ratio']:.1%}, G = "
        f"{claim['granularity']:g}). The largest budget here is {number(largest)}."
    )
    if any(count.leverage.read for count in found.counts.values()):
        parts[-1] += " What can be seen is how leverage changes with compute, not the claim itself."
    return "\n\n".join(parts)


def _read(leverage: Leverage, noise: Noise | None) -> list[str]:
    parts = [f"- {reason}" for reason in leverage.reasons]
    rows: list[tuple[str, ...]] = [
        (
            r.family,
            r.run,
            f"{r.loss:.4f}",
            number(r.dense_flops),
            number(r.flops),
            f"{r.leverage:.2f}",
            _around(r.leverage_interval, ".2f"),
            f"{r.law:.2f}" if r.law else "",
        )
        for r in leverage.read
    ]
    head = ["family", "at the loss of", "loss", "dense", "experts", "leverage", "interval", "law"]
    if rows:
        parts.append(table(head, rows))
    if noise and any(r.leverage_interval is None for r in leverage.read):
        parts.append(
            "An interval is unknown where losses vary so much from seed to seed, or that is known "
            "from so few differences, that a frontier may not fall there."
        )
    if leverage.unread:
        parts.append(
            "Not read:\n\n"
            + "\n".join(
                f"- `{u.family}` at the loss of {u.run} ({u.loss:.4f}): {u.reason}"
                for u in leverage.unread
            )
        )
    return parts


def _rates(found: Fit) -> str:
    if not found.rates:
        return ""
    rows = []
    for rate in found.rates:
        best: Any = ("", "", "", rate.reason or "")
        if rate.factor is not None:
            law = laws.optimal_lr(rate.target_flops)
            best = (
                f"{rate.lr:.3g} (×{rate.factor:.2f})",
                _around(rate.factor_interval, ".2f", (rate.factors[0], rate.factors[-1])),
                f"{rate.gain:.4f}",
                f"published law: {law:.3g}",
            )
        rows.append(
            (rate.family, rate.size, number(rate.target_flops), f"{rate.grid_lr:.3g}", *best)
        )
    head = ["family", "size", "FLOPs", "grid's lr", "best", "interval (×)", "loss it saves", ""]
    return "## Learning rate\n\n" + table(head, rows)
