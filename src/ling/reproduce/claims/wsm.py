"""Merging checkpoints in place of a decay of the learning rate, from the same small run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claim import Claim, Context, Figure, Outcome, Result, Scale, together
from ..shapes import NANO, SMALL


def measure(context: Context) -> Result:
    from ...eval.wsm import compare
    from ..small_runs import recipe, train

    every, kept = context["interval"], context["checkpoints"]
    made = recipe(
        context,
        optim={"schedule": "constant", "lr_min": 0.0, "lr": context["constant_lr"]},
        checkpoint={"interval_steps": every, "keep_last": kept},
    )
    train(context, "constant", made)
    report = compare(
        context.work / "constant", context.work, rows=context["held_out_rows"], log=context.log
    )
    return judged(report)


def judged(report: dict[str, Any]) -> Result:
    """What a comparison shows."""
    from ...eval.wsm import chosen

    last = report["last"]["loss"]
    merge, decay = chosen(report["merges"]), chosen(report["decays"])
    gain, possible = last - merge["loss"], last - decay["loss"]
    by = spreads(report["merges"])
    replaces: Outcome = (
        "disagrees" if gain <= 0 else "agrees" if merge["loss"] <= decay["loss"] else "partly"
    )
    window: Outcome = "agrees" if by["window"] > by["number in the same window"] else "disagrees"
    figures = [
        Figure(
            "best merge, held-out loss against the last checkpoint's",
            "better",
            f"{merge['loss'] - last:+.4f} nats",
            "measured",
            merge["loss"] - last,
            outcome=replaces,
        ),
        Figure(
            f"trained decay over {decay['window']} steps, the same",
            "",
            f"{decay['loss'] - last:+.4f} nats",
            "measured",
            decay["loss"] - last,
        ),
        Figure("last checkpoint, held-out loss", "", f"{last:.4f}", "measured", last),
    ]
    for what, spread in by.items():
        figures.append(
            Figure(
                f"loss changes by, between merges of another {what}",
                "",
                f"{spread:.4f}",
                "measured",
                spread,
                row=35 if what == "window" else 0,
                outcome=window if what == "window" else None,
            )
        )
    share = (
        f"{gain / possible:.0%} of what the best decay gains"
        if possible > 0
        else "and decays gain nothing"
    )
    return Result(
        figures,
        together((replaces, window)),
        f"The best merge ({merge['count']} checkpoints over {merge['window']} steps, weighed "
        f"{merge['schedule']}) lowers the held-out loss by {gain:.4f}, {share}. The window "
        f"changes the loss by {by['window']:.4f}, the number of checkpoints in the same "
        f"window by {by['number in the same window']:.4f}.",
        {"report": report},
    )


def spreads(merges: list[dict[str, Any]]) -> dict[str, float]:
    """Largest less smallest loss of plain means: of all windows, and of merges of one window."""
    plain = [row for row in merges if row["schedule"] == "mean"]
    windows: dict[int, list[float]] = {}
    for row in plain:
        windows.setdefault(row["window"], []).append(row["loss"])
    best = [min(losses) for losses in windows.values()]
    within = [max(losses) - min(losses) for losses in windows.values()]
    return {"window": max(best) - min(best), "number in the same window": max(within)}


def draw(data: dict[str, Any], path: Path) -> None:
    from ...eval.wsm_plot import draw as plot

    if plot(data["report"], path) is None:
        raise ImportError("matplotlib")


CLAIM = Claim(
    name="wsm",
    title="Merging checkpoints in place of a decay",
    published="Merging the last checkpoints of a constant rate replaces its decay, and is "
    "better by 1 to 2 points on average (32 checkpoints); the window matters more "
    "than interval or number.",
    source="arXiv 2507.17634, report",
    differs="Held-out loss instead of benchmarks, a model of 3 to 17 million "
    "parameters, some hundred steps instead of hundreds of billions of tokens. The "
    "decays are really trained, from checkpoints of the same run on the same rows. The best merge "
    "and the best decay are chosen on every other held-out row, and measured on the rest.",
    quick=Scale(
        budget_s=210,
        settings={
            **SMALL,
            "steps": 400,
            "interval": 20,
            "checkpoints": 10,
            "constant_lr": 4e-3,
            "held_out_rows": 64,
        },
    ),
    full=Scale(
        budget_s=3000,
        settings={
            **NANO,
            "rows": 4,
            "steps": 990,  # a multiple of the interval: merges need checkpoints evenly apart
            "interval": 15,
            "checkpoints": 33,
            "constant_lr": 3e-3,
            "held_out_rows": 128,
        },
    ),
    measure=measure,
    draw=draw,
    by_hand="ling nano OUT && python benchmarks/wsm.py OUT/pretrain RUNS",
)
