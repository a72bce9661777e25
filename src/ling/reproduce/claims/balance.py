"""Loads of experts with and without the bias that balances them, and what keeps its sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..claim import Claim, Context, Figure, Outcome, Result, Scale, together
from ..picture import drawing
from ..shapes import NANO, SMALL

RUNS: dict[str, dict[str, Any]] = {
    "zero-mean bias": {"bias_zero_mean": True},
    "bias": {"bias_zero_mean": False},
    "no bias": {"bias_update_rate": 0.0},
}
HALF = 0.5
"""Of what the fullest expert has above the mean without the bias, that a bias may leave."""
SUM_TOLERANCE = 1e-4
"""Of the sum of a layer's biases, for rounding in float32 over a run."""


def measure(context: Context) -> Result:
    from ..small_runs import recipe, train

    curves, sums, losses = {}, {}, {}
    for name, changes in RUNS.items():
        made = recipe(context, train={"bias_update_rate": context["bias_update_rate"], **changes})
        rows = train(context, name.replace(" ", "-"), made)
        curves[name] = [row["load_max_mean"] for row in rows]
        losses[name] = rows[-1]["valid_loss"]
        sums[name] = largest_sum(context.work / name.replace(" ", "-"))
    end = {name: float(np.mean(each[-max(len(each) // 5, 1) :])) for name, each in curves.items()}
    even = balanced(end)
    kept: Outcome = "agrees" if sums["zero-mean bias"] < SUM_TOLERANCE else "disagrees"
    begin = {name: float(np.mean(each[: max(len(each) // 20, 1)])) for name, each in curves.items()}
    figures = [
        Figure(
            f"largest over mean load, last fifth of the steps, {name}",
            "balanced" if name != "no bias" else "",
            f"{end[name]:.2f} (at the start {begin[name]:.2f})",
            "measured",
            end[name],
            outcome=even if name != "no bias" else None,
        )
        for name in RUNS
    ]
    figures += [
        Figure(
            f"largest sum of a layer's biases, {name}",
            "0" if name == "zero-mean bias" else "",
            f"{sums[name]:.1e}",
            "measured",
            sums[name],
            row=31 if name == "zero-mean bias" else 0,
            outcome=kept if name == "zero-mean bias" else None,
        )
        for name in ("zero-mean bias", "bias")
    ]
    figures += [
        Figure(f"held-out loss, {name}", "", f"{losses[name]:.3f}", "measured", losses[name])
        for name in RUNS
    ]
    return Result(
        figures,
        together((even, kept)),
        f"Without the bias the fullest expert of a layer has {end['no bias']:.1f} times the "
        f"mean load at the end, with it {end['bias']:.1f}, with the zero-mean update "
        f"{end['zero-mean bias']:.1f}; 1 is perfect balance, and balanced is called what leaves "
        f"at most half of the excess. The zero-mean update "
        f"{'keeps' if kept == 'agrees' else 'does not keep'} the sum of the biases at 0 but for "
        "rounding. Choices are those of one batch: few tokens an expert leave some imbalance by "
        "chance.",
        {"curves": curves},
    )


def balanced(end: dict[str, float]) -> Outcome:
    """By the largest over mean load at the end of each run: both biases count."""
    worst = max(end["zero-mean bias"], end["bias"])
    if worst - 1 <= HALF * (end["no bias"] - 1):
        return "agrees"
    return "partly" if worst < end["no bias"] else "disagrees"


def largest_sum(run: Path) -> float:
    """The largest sum of an expert bias of the last checkpoint, without its sign."""
    from ...checkpoint.load import load_model
    from ...checkpoint.run_folder import checkpoints

    buffers = load_model(checkpoints(run)[-1], "float32").named_buffers()
    return max(abs(float(b.double().sum())) for n, b in buffers if n.endswith("expert_bias"))


def draw(data: dict[str, Any], path: Path) -> None:
    from ...eval.fp8_curves import running_mean

    with drawing(path) as axes:
        # The two biases are nearly one line.
        for (name, each), style in zip(data["curves"].items(), ("-", "--", "-"), strict=True):
            axes.plot(range(1, len(each) + 1), running_mean(each, 20), style, label=name)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(xlabel="step", ylabel="largest over mean load of an expert\n(mean of 20 steps)")
        axes.set_ylim(bottom=0.8)
        axes.legend(fontsize=8)


CLAIM = Claim(
    name="balance",
    title="Balanced experts without an auxiliary loss",
    published="A bias that follows the loads balances the experts without an auxiliary loss; the "
    "zero-mean update keeps the sum of the biases.",
    source="README, report",
    differs="Models with 32 experts of which 4 are used, on Python's own library, for "
    "hundreds of steps instead of hundreds of thousands; the bias moves ten times as "
    "fast, because a run is so short.",
    quick=Scale(budget_s=210, settings={**SMALL, "steps": 300, "bias_update_rate": 1e-2}),
    full=Scale(
        budget_s=4800, settings={**NANO, "rows": 4, "steps": 1000, "bias_update_rate": 1e-2}
    ),
    measure=measure,
    draw=draw,
)
