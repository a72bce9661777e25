"""The published scaling laws against the settings that were published for the released models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ...presets import preset
from ...scaling import laws
from ..claim import Claim, Context, Figure, Result, Scale
from ..picture import drawing

TOKENS, SEQ_LENGTH = 20e12, 4096


class Released(NamedTuple):
    """Settings of a released model: peak learning rate, and batch in rows of 4,096 tokens."""

    model: str
    lr: float
    batch: int


RELEASED = (
    Released("ling-mini-2.0", 3.36e-4, 4400),
    Released("ling-flash-2.0", 2.61e-4, 8352),
    Released("ling-1t", 1.86e-4, 18144),
)
LR_TOLERANCE, BATCH_TOLERANCE = 0.002, 0.04


def measure(context: Context) -> Result:
    figures, errors, points = [], [], []
    for each in RELEASED:
        flops = laws.token_flops(preset(each.model), SEQ_LENGTH).without_head * TOKENS
        lr, batch = laws.optimal_lr(flops), laws.optimal_batch_tokens(flops) / SEQ_LENGTH
        figures += [
            Figure(f"{each.model}, learning rate", f"{each.lr:.2e}", f"{lr:.3e}", "formula", lr),
            Figure(
                f"{each.model}, batch",
                f"{each.batch:,} rows",
                f"{batch:,.0f} rows",
                "formula",
                batch,
            ),
        ]
        errors.append((lr / each.lr - 1, batch / each.batch - 1))
        points.append({"model": each.model, "flops": flops, "lr": each.lr, "batch": each.batch})
    best = best_granularity()
    figures.append(Figure("best granularity", "8 to 12", f"{best:.1f}", "formula", best))
    lr_off = max(abs(lr) for lr, _ in errors)
    batch_off = max(abs(batch) for _, batch in errors)
    agrees = lr_off <= LR_TOLERANCE and batch_off <= BATCH_TOLERANCE and 8 <= best <= 12
    return Result(
        figures,
        "partly" if agrees else "disagrees",
        "At the compute of 20T tokens, the law of the learning rate gives what the three "
        f"models were trained with to within {lr_off:.2%}, that of the batch to within "
        f"{batch_off:.1%}. That the loss is within 0.25% of the best is not shown here: "
        "`ling scaling sweep` trains other learning rates beside the law's.",
        {"points": points},
    )


def best_granularity() -> float:
    """Where the published formula of leverage has its largest value."""
    at = laws.CLAIM
    grid = [2 ** (k / 64) for k in range(64, 6 * 64)]
    return max(grid, key=lambda g: laws.leverage(at["activation_ratio"], g, at["flops"]))


def draw(data: dict[str, Any], path: Path) -> None:
    points = data["points"]
    with drawing(path, columns=2, size=(9, 4)) as (left, right):
        span = [10 ** (17 + k / 10) for k in range(85)]
        for axes, law, key, scale, label in (
            (left, laws.optimal_lr, "lr", 1, "peak learning rate"),
            (right, laws.optimal_batch_tokens, "batch", SEQ_LENGTH, "batch, rows of 4,096"),
        ):
            axes.plot(span, [law(c) / scale for c in span], label="law")
            for p in points:
                axes.plot(p["flops"], p[key], "o", label=p["model"])
            axes.set(xscale="log", yscale="log", xlabel="compute (FLOPs)", ylabel=label)
        left.legend(fontsize=8)


CLAIM = Claim(
    name="laws",
    title="Laws of learning rate, batch and granularity",
    published="η = 1.1576 C^-0.1529 and B = 0.0694 C^0.3644, near-optimal within 0.25% of "
    "the loss; best granularity 8 to 12.",
    source="arXiv 2507.17702; settings of the released models: arXiv 2510.22115",
    differs="The formulas are held against the settings of the released models, far above the "
    "compute that they were fitted at; no model is trained.",
    quick=Scale(budget_s=2),
    full=Scale(budget_s=2),
    measure=measure,
    draw=draw,
    by_hand="ling scaling sweep ling-grid && ling scaling fit",
)
