"""The algebra of WSM: a decay of the learning rate as weights of checkpoints, and back."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

from ...train.schedule import SHAPES, merge_weights, weights_of_decay
from ..claim import Claim, Context, Figure, Result, Scale
from ..picture import drawing

EXACT = 1e-12


def measure(context: Context) -> Result:
    count = context["checkpoints"]
    figures, drawn, worst = [], {}, 0.0
    for name in ("mean", *SHAPES):
        weights = merge_weights(count - 1, name)
        decay = decay_of(weights)
        back = max(abs(a - b) for a, b in zip(weights_of_decay(decay), weights, strict=True))
        gap = trajectory_gap(decay, context.seed)
        worst = max(worst, back, gap)
        drawn[name] = {"weights": weights, "decay": decay}
        figures.append(
            Figure(
                f"{name}: merged checkpoints against decayed steps, largest difference",
                "exact",
                f"{gap:.1e}",
                "counted",
                gap,
            )
        )
    return Result(
        figures,
        "agrees" if worst < EXACT else "disagrees",
        f"For {count} checkpoints: weights to decay and back, and the merge of a path of "
        "random updates against the same updates taken at the decayed rate, agree to "
        f"{worst:.0e}, the rounding of float64.",
        {"schedules": drawn},
    )


def decay_of(weights: list[float]) -> list[float]:
    """w_1..w_k of weights c_0..c_k: w_j is the sum of the weights from c_j on."""
    return list(accumulate(reversed(weights[1:])))[::-1]


def trajectory_gap(decay: list[float], seed: int) -> float:
    """Updates are fixed, so that only the algebra is tested: the gradients of a decayed run would
    differ from those of a constant one."""
    import numpy as np

    updates = np.random.default_rng(seed).standard_normal((len(decay), 64))
    start = np.zeros(64)
    checkpoints = np.vstack([start, np.cumsum(updates, axis=0)])
    merged = np.asarray(weights_of_decay(decay)) @ checkpoints
    decayed = (np.asarray(decay)[:, None] * updates).sum(axis=0)
    return float(np.abs(merged - decayed).max())


def draw(data: dict[str, Any], path: Path) -> None:
    with drawing(path, columns=2, size=(9, 4)) as (left, right):
        for name, each in data["schedules"].items():
            left.plot(range(len(each["weights"])), each["weights"], marker=".", label=name)
            right.plot(range(1, len(each["decay"]) + 1), each["decay"], marker=".", label=name)
        left.set(xlabel="checkpoint", ylabel="weight in the merge")
        right.set(xlabel="interval", ylabel="learning rate that it acts like, of the peak")
        left.legend(fontsize=8)


CLAIM = Claim(
    name="merge-weights",
    title="Merging as a decay, and back",
    published="Any decay of the learning rate has weights of a merge that act like it, and "
    "any such weights a decay.",
    source="arXiv 2507.17634",
    differs="Nothing: the algebra is tested, on updates that do not depend on the weights. "
    "What a merge does to a training is the claim `wsm`.",
    quick=Scale(budget_s=2, settings={"checkpoints": 16}),
    full=Scale(budget_s=2, settings={"checkpoints": 16}),
    measure=measure,
    draw=draw,
)
