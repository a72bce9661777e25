"""What cutting a pipeline by cost gains where one stage has head and MTP layer, by simulation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...plan.schedule import simulate
from ..claim import Claim, Context, Figure, Result, Scale
from ..picture import drawing

PUBLISHED_MTP, PUBLISHED = 1.7, 23.8 / 16.9 - 1
"""Cost of an MTP layer in layers, and the gain."""


def measure(context: Context) -> Result:
    from ...plan.stages import cut, layer_costs
    from ...presets import preset

    cfg = preset("ling-mini-2.0")
    costs, last = layer_costs(cfg, 4096)
    without, head = layer_costs(cfg.replace(num_nextn_predict_layers=0), 4096)
    mtp, with_head = (last - 2 * head) / without[-1], (last - head) / without[-1]
    rows = []
    for ranks, per_rank in itertools.product(context["ranks"], context["per_rank"]):
        stages = ranks * per_rank
        if stages <= len(costs):
            by_cost = [[costs[n] for n in stage] for stage in cut(costs, last, stages)]
            even = seconds(even_cut(costs, stages), last, ranks, per_rank, context)
            best = seconds(by_cost, last, ranks, per_rank, context)
            rows.append({"stages": ranks, "per_rank": per_rank, "gain": even / best - 1})
    gains = [r["gain"] for r in rows]
    near = min(rows, key=lambda r: abs(r["gain"] - PUBLISHED))
    figures = [
        Figure(
            "gain of a cut by cost over an equal one",
            f"{PUBLISHED:+.0%}",
            f"{min(gains):+.0%} to {max(gains):+.0%}",
            "planned",
            max(gains),
        ),
        Figure(
            "cost of the MTP layer, in layers",
            f"{PUBLISHED_MTP}",
            f"{mtp:.2f}, with its head {with_head:.2f}",
            "planned",
            mtp,
        ),
        *(
            Figure(
                f"{r['stages']} ranks, stages on each: {r['per_rank']}",
                "",
                f"{r['gain']:+.1%}",
                "planned",
                r["gain"],
            )
            for r in rows
        ),
    ]
    return Result(
        figures,
        "open" if min(gains) <= PUBLISHED <= max(gains) else "disagrees",
        f"Ling-mini with {context['micro']} micro-batches; nearest to the published gain are "
        f"{near['stages']} ranks, stages on each: {near['per_rank']}. The original's layout and "
        "model are not published, so that its gain lies in the range is all that can be shown. "
        f"The MTP layer alone costs {mtp:.2f} layers here and {with_head:.2f} with its head, where "
        f"{PUBLISHED_MTP} is published.",
        {"rows": rows},
    )


def even_cut(costs: Sequence[float], stages: int) -> list[list[float]]:
    """Costs of the layers of each stage, equally many layers in each (one more in the first)."""
    base, more = divmod(len(costs), stages)
    borders = list(itertools.accumulate(base + (n < more) for n in range(stages)))
    return [list(costs[a:b]) for a, b in itertools.pairwise([0, *borders])]


def seconds(
    stages: Sequence[Sequence[float]], last: float, ranks: int, per_rank: int, context: Context
) -> float:
    """Of a step, in units of cost; a backward pass takes two forward passes."""
    forward = [sum(stage) for stage in stages]
    forward[-1] += last
    backward = [2 * cost for cost in forward]
    return simulate(ranks, per_rank, context["micro"], forward, backward).seconds


def draw(data: dict[str, Any], path: Path) -> None:
    with drawing(path) as axes:
        for per_rank in sorted({r["per_rank"] for r in data["rows"]}):
            points = [
                (r["stages"], 100 * r["gain"]) for r in data["rows"] if r["per_rank"] == per_rank
            ]
            axes.plot(*zip(*points, strict=True), "o-", label=f"stages on each rank: {per_rank}")
        axes.axhline(100 * PUBLISHED, color="grey", linestyle="--", label="published")
        axes.set(xlabel="ranks of the pipeline", ylabel="% faster than equally many layers a stage")
        axes.legend(fontsize=8)


_SETTINGS = {"ranks": [2, 4, 8], "per_rank": [1, 2], "micro": 32}

CLAIM = Claim(
    name="pipeline",
    title="Cutting a pipeline by cost",
    published="A partition that knows what the MTP layer costs (about 1.7 layers) raises MFU "
    "from 16.9% to 23.8%.",
    source="report",
    differs="Nothing is measured: schedules are simulated from counted costs (FLOPs; "
    "experts' products at a 4.6th of the speed of large ones), 1F1B and interleaved, "
    "without transfers. `ling pretrain` cuts by cost as here; `ling plan` shows its "
    "schedule.",
    quick=Scale(budget_s=5, settings=_SETTINGS),
    full=Scale(budget_s=5, settings=_SETTINGS),
    measure=measure,
    draw=draw,
)
