"""Small runs predict the loss of larger ones: what a committed sweep held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...scaling.noise import COVERAGE
from ..claim import Claim, Context, Figure, Outcome, Result, Scale
from ..committed import NOT_HERE, committed
from ..picture import drawing
from .leverage import RESULTS

AT_MOST = 0.01
"""The published error of a predicted loss, in nats."""


def measure(context: Context) -> Result:
    found = committed(RESULTS)
    if found is None:
        return _nothing(f"Results of `ling scaling sweep ling-grid` are needed. {NOT_HERE}")
    data = predicted(found, context.seed)
    held_out, noise = data["held_out"], data["noise"]
    if not held_out:
        return _nothing(f"The fits of {found.name} predict none of its held-out runs.")
    inside = sum(p["is_inside"] for p in held_out)
    worst = max(held_out, key=lambda p: abs(p["error"]))
    figures = [
        Figure(
            f"largest error of {len(held_out)} predicted losses, nats",
            f"at most {AT_MOST}",
            f"{abs(worst['error']):.3f} ({worst['run']})",
            "committed",
            abs(worst["error"]),
        ),
        *(
            Figure(
                f"{p['run']}: loss minus its prediction, nats",
                f"at most {AT_MOST}",
                f"{p['error']:+.4f} ({_around(p)})",
                "committed",
                p["error"],
            )
            for p in held_out
        ),
    ]
    return Result(
        figures,
        outcome(held_out, noise),
        f"{data['fitted']} runs of {found.name} are fitted by L(N, D); the sizes that it predicts "
        f"were not among them. {inside} of {len(held_out)} losses are inside the interval of "
        f"their prediction. {_varies(noise)}.",
        data,
    )


def predicted(results: Path, seed: int) -> dict[str, Any]:
    """The losses that the surface predicts, and how far one may be from its mean over seeds (None
    where no two seeds tell), in nats."""
    from ...scaling.fit import fit
    from ...scaling.results import read_rows

    found = fit(read_rows(results), seed=seed)
    held_out = [
        p._asdict() | {"error": p.loss - p.predicted, "is_inside": p.is_inside}
        for p in found.predictions
        if p.by == "surface"
    ]
    noise = found.noise and found.noise.bound()
    fitted = sum(not row.held_out for row in found.selection.at_grid_lr())
    return {"held_out": held_out, "noise": noise, "fitted": fitted}


def _nothing(why: str) -> Result:
    figure = Figure("held-out runs that were predicted", "", "0", "counted", 0)
    return Result([figure], "open", why, {"held_out": []})


def outcome(held_out: list[dict[str, Any]], noise: float | None) -> Outcome:
    """Whether all errors are as small as published, or one is larger by more than its loss may be
    from its mean over seeds; `open` between both, and where that is not known."""
    if not held_out:
        return "open"
    worst = max(abs(p["error"]) for p in held_out)
    if worst <= AT_MOST:
        return "agrees"
    return "disagrees" if noise is not None and worst > AT_MOST + noise else "open"


def _around(p: dict[str, Any]) -> str:
    low, high = p["interval"]
    return f"{p['loss']:.4f}; predicted {p['predicted']:.4f} [{low:.4f}, {high:.4f}]"


def _varies(noise: float | None) -> str:
    if noise is None:
        return "How far a loss is from its mean over seeds is not known: no run has two"
    return f"A loss is within {noise:.3f} nats of its mean over seeds ({COVERAGE:.0%})"


def draw(data: dict[str, Any], path: Path) -> None:
    held_out = data["held_out"]
    names = [p["run"] for p in held_out]
    expected = [p["predicted"] for p in held_out]
    errors = np.abs(np.array([p["interval"] for p in held_out]).T - expected)
    with drawing(path) as axes:
        axes.errorbar(
            names,
            expected,
            yerr=errors,
            fmt="o",
            capsize=6,
            label="predicted, with its interval",
        )
        axes.plot(
            names,
            [p["loss"] for p in held_out],
            "D",
            fillstyle="none",
            markeredgewidth=2,
            label="measured, held out",
        )
        axes.margins(x=0.3)
        axes.set(ylabel="held-out loss (nats per token)")
        axes.legend(fontsize=8)


CLAIM = Claim(
    name="prediction",
    title="Small runs predict the loss of a larger one",
    published="Five models of 0.5B to 8B, with all settings by scaling laws, predict a final loss "
    "with an error of at most 0.01 (the wind tunnel).",
    source="report",
    differs="Models of 0.07 to 0.37 million activated parameters (without embedding and head) "
    "predict one of 0.6 million, 1.8 times the largest of them, at the largest compute that they "
    "were trained with.",
    quick=Scale(budget_s=60),
    full=Scale(budget_s=120),
    measure=measure,
    draw=draw,
    by_hand="ling scaling sweep ling-grid --out runs/ling-grid",
)
