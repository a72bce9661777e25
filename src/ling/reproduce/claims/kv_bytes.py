"""Bytes that a token takes in the KV cache: by formula, and as the engine allocates them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model.size import kv_bytes_per_token, kv_cache_dtypes
from ...presets import preset
from ..claim import Claim, Context, Figure, Result, Scale
from ..picture import drawing

PUBLISHED = 40_960
MODELS = ("ling-mini-2.0", "ling-flash-2.0", "ling-1t", "dense-8b")
CONTEXTS = (4096, 32768, 131072)
SMALL = "ling-tiny"


def measure(context: Context) -> Result:
    allocated = allocated_bytes(context)
    counted = kv_bytes_per_token(preset(SMALL).replace(num_nextn_predict_layers=0))
    mini = kv_bytes_per_token(preset("ling-mini-2.0"))
    figures = [
        Figure(
            "Ling-mini, bfloat16, bytes a token",
            f"{PUBLISHED:,} by its configuration",
            f"{mini:,}",
            "counted",
            mini,
        )
    ]
    for name in MODELS:
        cfg = preset(name)
        for dtype in kv_cache_dtypes(cfg):
            if (name, dtype) != ("ling-mini-2.0", "bf16") and dtype != "float32":
                count = kv_bytes_per_token(cfg, dtype)
                figures.append(Figure(f"{name}, {dtype}", "", f"{count:,}", "counted", count))
    figures.append(
        Figure(f"{SMALL}, as the engine allocates it", "", f"{allocated:,}", "measured", allocated)
    )
    agrees = mini == PUBLISHED and allocated == counted
    dense = kv_bytes_per_token(preset("dense-8b"))
    return Result(
        figures,
        "agrees" if agrees else "disagrees",
        f"Layers × KV heads × head size × 2 (keys, values) × 2 bytes is {mini:,}; the "
        f"engine's pages of {SMALL} have {allocated:,} bytes a token, the formula gives "
        f"{counted:,}. A dense 8B model of the family takes {dense / mini:.1f} times as much "
        "as Ling-mini.",
        {"bytes": {name: kv_bytes_per_token(preset(name)) for name in MODELS}},
    )


def allocated_bytes(context: Context) -> float:
    """Bytes a token of a page that the engine allocates for a small model."""
    from ...config.engine import EngineConfig
    from ...convert.synth import synth
    from ...infer.open import open_runner
    from ...infer.pages import PAGE

    folder = context.work / SMALL
    if not folder.exists():
        small = preset(SMALL).replace(num_nextn_predict_layers=0)
        synth(small, folder, to="bf16", seed=context.seed, log=context.log)
    runner = open_runner(folder, EngineConfig(format="bf16"))
    runner.allocate(context["pages"])
    return sum(tensor.nbytes for tensor in runner.page(0)) / PAGE


def draw(data: dict[str, Any], path: Path) -> None:
    with drawing(path) as axes:
        for name, each in data["bytes"].items():
            axes.plot(CONTEXTS, [each * n / 1e9 for n in CONTEXTS], marker="o", label=name)
        axes.set(
            xscale="log", yscale="log", xlabel="tokens of context", ylabel="GB of KV cache, bf16"
        )
        axes.set_xticks(CONTEXTS, [f"{n // 1024}K" for n in CONTEXTS], minor=False)
        axes.minorticks_off()
        axes.legend(fontsize=8)


CLAIM = Claim(
    name="kv-bytes",
    title="Bytes of the KV cache",
    published="40,960 bytes a token of Ling-mini in bfloat16 (from its configuration).",
    source="configuration of Ling-mini-2.0",
    differs="Nothing in the count. The engine's allocation is read for a small model, whose pages "
    "are made in the same way.",
    quick=Scale(budget_s=10, settings={"pages": 8}),
    full=Scale(budget_s=10, settings={"pages": 8}),
    measure=measure,
    draw=draw,
)
