"""Training throughput with and without MTP against a dense model: small here, planned for GPUs."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...config.model import ModelConfig
from ...presets import preset
from ..claim import Claim, Context, Figure, Outcome, Result, Scale
from ..committed import committed
from ..picture import drawing, paired_bars

GPU_CHECK = "*-gpu-check-*.json"
# Of the training guide's log: rows of 8,192 tokens, 128 a step, on 8 GPUs.
LOG_SECONDS, LOG_TFLOPS, LOG_TOKENS = 10.75, 133.0, 128 * 8192
MODELS = ("dense", "with MTP", "without MTP")
PUBLISHED = {"with MTP": (1.35, 1.40), "without MTP": (1.58, 1.90)}
"""Times the dense model, of 8 to 32 GPUs."""
LOG_TOLERANCE = 0.05


def measure(context: Context) -> Result:
    from ...model.size import flops_per_token

    shapes = small_shapes(context)
    rates, ratios = alternated(shapes, context)
    length = context["seq_length"]
    flops = {name: flops_per_token(cfg, length) for name, cfg in shapes.items()}
    figures = []
    for name in MODELS[1:]:
        low, high = ratios[name]["interval"]
        published = " to ".join(f"{times:.2f}" for times in PUBLISHED[name])
        figures.append(
            Figure(
                f"{name}, times the dense model",
                published,
                f"{ratios[name]['median']:.2f} [{low:.2f}, {high:.2f}], of "
                f"{flops['dense'] / flops[name]:.2f} by FLOPs",
                "measured",
                ratios[name]["median"],
            )
        )
    cost = ratios["with MTP"]["median"] / ratios["without MTP"]["median"]
    figures.append(
        Figure("with MTP, times without (8 GPUs)", "0.854", f"{cost:.3f}", "measured", cost)
    )
    figures += [
        Figure(f"{name}, tokens/s", "", f"{rates[name]:,.0f}", "measured", rates[name])
        for name in MODELS
    ]
    cells, planned = planned_cells()
    figures += planned + log_figures()
    figures.append(_gpu_check())
    return Result(
        figures,
        judged(ratios, cost),
        f"A small mixture trains {ratios['without MTP']['median']:.2f} times as fast as a "
        f"dense model whose training takes {flops['dense'] / flops['without MTP']:.1f} times "
        "as many operations a token, as in the published comparison; its MTP layer costs "
        f"{1 - cost:.0%}. It is one of {shapes['with MTP'].num_hidden_layers + 1} layers here "
        "and one of 21 in Ling-mini. For GPUs the plan's constants were fitted to the "
        "published table: that it comes near is no second proof.",
        {"measured": {n: ratios[n]["median"] for n in MODELS[1:]}, "cells": cells},
    )


def judged(ratios: dict[str, dict[str, Any]], cost: float) -> Outcome:
    """Agrees from the smallest published ratio on where MTP costs something, in part where the
    mixture is at least faster than the dense model."""
    enough = all(ratios[name]["median"] >= PUBLISHED[name][0] for name in PUBLISHED)
    if enough and cost < 1:
        return "agrees"
    faster = all(ratios[name]["interval"][0] > 1 for name in PUBLISHED)
    return "partly" if faster else "disagrees"


def small_shapes(context: Context) -> dict[str, ModelConfig]:
    """The mixture with MTP and without, and a dense model; all from the settings."""
    mixture = preset("ling-nano").replace(**context["mixture"])
    dense = preset("dense-8b").replace(
        **context["dense"],
        vocab_size=mixture.vocab_size,
        max_position_embeddings=mixture.max_position_embeddings,
        pad_token_id=0,
        eos_token_id=0,
    )
    return {
        "dense": dense,
        "with MTP": mixture.replace(num_nextn_predict_layers=1),
        "without MTP": mixture.replace(num_nextn_predict_layers=0),
    }


def alternated(
    shapes: dict[str, ModelConfig], context: Context
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Tokens a second of each, and ratios to the dense model; they take turns, step by step."""

    from ...eval.bench import stepper
    from ...eval.peers import interval
    from ...model.ling import from_config

    rows, length = context["rows"], context["seq_length"]
    steps = {
        name: stepper(from_config(cfg, seed=context.seed), rows, length)
        for name, cfg in shapes.items()
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(context["pairs"] + 1):  # the first warms up
        for name, step in steps.items():
            times[name].append(_seconds(step))
    rates = {name: rows * length / statistics.median(each[1:]) for name, each in times.items()}
    ratios = {}
    for name in MODELS[1:]:
        pairs = [d / s for d, s in zip(times["dense"][1:], times[name][1:], strict=True)]
        ratios[name] = {"median": statistics.median(pairs), "interval": interval(pairs)}
    return rates, ratios


def _seconds(step: Callable[[], None]) -> float:
    import time

    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def planned_cells() -> tuple[list[dict[str, Any]], list[Figure]]:
    """The published table beside `ling plan`."""
    from ...plan.published import CELLS, planned

    cells, figures = [], []
    for cell in CELLS:
        found = planned(cell).tokens_per_s
        cells.append(
            {
                "model": cell.model,
                "gpus": cell.gpus,
                "published": cell.tokens_per_s,
                "planned": found,
            }
        )
        figures.append(
            Figure(
                f"{cell.model}, {cell.gpus} GPUs, tokens/s",
                f"{cell.tokens_per_s:,}",
                f"{found:,.0f} ({found / cell.tokens_per_s - 1:+.1%})",
                "planned",
                found,
            )
        )
    return cells, figures


def log_figures() -> list[Figure]:
    """Whether the training log of the guide agrees with itself and with the table."""
    from ...model.size import flops_per_token

    rate = LOG_TOKENS / LOG_SECONDS
    tflops = rate * flops_per_token(preset("ling-mini-2.0"), 8192) / 8 / 1e12
    return [
        Figure(
            "log of 8 GPUs, tokens/s",
            "109,532 in the table",
            f"{rate:,.0f}",
            "formula",
            rate,
        ),
        Figure(
            f"log of 8 GPUs, TFLOP/s a GPU at {LOG_SECONDS} s an iteration",
            f"{LOG_TFLOPS:.0f}",
            f"{tflops:.0f}",
            "formula",
            tflops,
            19,
            "agrees" if abs(tflops / LOG_TFLOPS - 1) <= LOG_TOLERANCE else "disagrees",
        ),
    ]


def _gpu_check() -> Figure:
    path = committed(GPU_CHECK)
    text = (
        f"see docs/evidence/gpu.md ({path.name})"
        if path
        else "not measured: no result is committed"
    )
    return Figure("on a GPU (`scripts/gpu_check`)", "", text, "committed")


def draw(data: dict[str, Any], path: Path) -> None:
    with drawing(path, columns=2, size=(11, 4.2)) as (left, right):
        dense = [c for c in data["cells"] if c["model"].startswith("LLaMA")]
        names = ["with MTP", "without MTP"]
        ratios: dict[str, list[float]] = {}
        for gpus, base in ((c["gpus"], c) for c in dense):
            ling = [c for c in data["cells"] if c["gpus"] == gpus and c["model"].startswith("Ling")]
            ratios[f"published, {gpus} GPUs"] = [c["published"] / base["published"] for c in ling]
        ratios["here, small models"] = [data["measured"][n] for n in names]
        paired_bars(left, names, ratios)
        left.axhline(1, color="black", linewidth=0.8)
        left.set(ylabel="times the dense model's tokens/s")
        for model in dict.fromkeys(c["model"] for c in data["cells"]):
            cells = [c for c in data["cells"] if c["model"] == model]
            right.plot(
                [c["published"] for c in cells], [c["planned"] for c in cells], "o", label=model
            )
        ends = [
            min(c["published"] for c in data["cells"]),
            max(c["published"] for c in data["cells"]),
        ]
        right.plot(ends, ends, color="black", linewidth=0.8)
        right.set(
            xscale="log", yscale="log", xlabel="published tokens/s", ylabel="planned tokens/s"
        )
        right.legend(fontsize=8)


_SHAPES = {
    "mixture": {},
    "dense": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 10,
        "max_window_layers": 10,
        "first_k_dense_replace": 10,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rope_theta": 10000.0,
    },
    "rows": 4,
    "seq_length": 512,
}

CLAIM = Claim(
    name="throughput",
    title="Training throughput, with and without MTP",
    published="On 8 to 32 GPUs Ling-mini trains 35 to 40% faster than LLaMA 3.1 8B with MTP, "
    "58 to 90% without (the table; the text above it says 30 to 60% and 90 to "
    "120%).",
    source="README; training guide (log)",
    differs="Measured are ling-nano (17 million parameters) and a dense model of 34 million "
    "on a CPU; the ratio of their operations is about that of LLaMA 3.1 8B to "
    "Ling-mini. A CPU has no links between experts, which decide on GPUs. The table "
    "for GPUs is planned, not measured.",
    quick=Scale(budget_s=60, settings={**_SHAPES, "rows": 2, "pairs": 5}),
    full=Scale(budget_s=300, settings={**_SHAPES, "pairs": 20}),
    measure=measure,
    draw=draw,
    by_hand="ling plan --published; scripts/gpu_check --out FILE.json",
)
