"""Bytes of optimizer states in 8 bits: counted, and as the optimizer allocates them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ...config.optim import OptimConfig
from ...config.parallel import ParallelConfig
from ...config.recipe import DataConfig, PretrainConfig, TrainConfig
from ...presets import preset
from ..claim import Claim, Context, Figure, Result, Scale
from ..picture import drawing, paired_bars

PUBLISHED_BITS8, PUBLISHED_FP32 = 2 + 8 / 256, 8.0
MODEL = "ling-mini-2.0"


def measure(context: Context) -> Result:
    kinds = {"adamw": "AdamW in float32", "adamw8bit": "AdamW in 8 bits"}
    per_parameter = {name: allocated(name, context["parameters"]) for name in kinds}
    published = {"adamw": PUBLISHED_FP32, "adamw8bit": PUBLISHED_BITS8}
    figures = [
        Figure(
            f"{words}, bytes a parameter",
            "2 and 8/256" if name == "adamw8bit" else "8",
            f"{per_parameter[name]:.6g}",
            "measured",
            per_parameter[name],
        )
        for name, words in reversed(kinds.items())
    ]
    counted = {name: counted_states(name) for name in kinds}
    figures += [
        Figure(
            f"{words}, {MODEL} on 8 GPUs, GB a rank",
            "",
            f"{counted[name] / 1e9:.3f}",
            "planned",
            counted[name],
        )
        for name, words in kinds.items()
    ]
    agrees = per_parameter == published
    return Result(
        figures,
        "agrees" if agrees else "disagrees",
        "Two codes of one byte and two scales of float32 for 256 parameters: allocated for "
        f"{context['parameters']:,} parameters, {per_parameter['adamw8bit']:.5g} bytes each. "
        f"Of {MODEL}'s states {1 - counted['adamw8bit'] / counted['adamw']:.1%} are saved; "
        "parameters of fewer than 4,096 numbers keep float32.",
        {"gb": {kinds[name]: value / 1e9 for name, value in counted.items()}},
    )


def allocated(name: str, parameters: int) -> float:
    """Bytes a parameter of the states after one step."""
    import torch
    from torch import nn

    from ...train.adam8 import AdamW8bit

    weight = nn.Parameter(torch.zeros(parameters))
    weight.grad = torch.ones(parameters)
    optimizer = (AdamW8bit if name == "adamw8bit" else torch.optim.AdamW)([weight])
    optimizer.step()
    states = optimizer.state[weight].values()
    # A count of steps is no state of a parameter.
    total = sum(s.nbytes for s in states if isinstance(s, torch.Tensor) and s.numel() > 1)
    return total / parameters


def counted_states(name: str) -> float:
    """Bytes of one of 8 ranks, as `ling plan` counts them."""
    from ...plan.shape import shape_of
    from ...plan.weights import RankWeights

    recipe = PretrainConfig(
        model=MODEL,
        data=DataConfig(prefix=["data"]),
        train=TrainConfig(fp8="blockwise", global_batch_size=8, micro_batch_size=1),
        parallel=ParallelConfig(dp_shard=8, ep=8),
    )
    recipe = dataclasses.replace(recipe, optim=OptimConfig(name=name))  # type: ignore[arg-type]
    shape = shape_of(preset(MODEL), recipe.data.seq_length)
    return RankWeights(shape, recipe, "cuda", 0).states()


def draw(data: dict[str, Any], path: Path) -> None:
    with drawing(path) as axes:
        paired_bars(axes, [MODEL], {name: [value] for name, value in data["gb"].items()})
        axes.set(ylabel="GB of optimizer states on each of 8 GPUs")


CLAIM = Claim(
    name="fp8-states",
    title="Optimizer states in 8 bits",
    published="2 and 8/256 bytes a parameter instead of 8.",
    source="report",
    differs="Nothing in the bytes: counted, and allocated by our optimizer on the CPU. What the "
    "original calls FP8 states are codes of 8 bits with a scale for 256 of them; ours are those of "
    "bitsandbytes. What they do to the loss is in docs/concepts/training.md.",
    quick=Scale(budget_s=5, settings={"parameters": 1 << 20}),
    full=Scale(budget_s=5, settings={"parameters": 1 << 20}),
    measure=measure,
    draw=draw,
    by_hand="python benchmarks/fp8_savings.py",
)
