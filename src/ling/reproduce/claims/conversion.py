"""Conversion between formats: which round trips give the same bits, tensor by tensor."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ...presets import preset
from ..claim import Claim, Context, Figure, Result, Scale

ROUND_TRIPS = (
    ("bf16", "float32", "bf16"),
    ("bf16", "megatron", "bf16"),
    ("bf16", "dcp", "bf16"),
    ("bf16", "gguf", "bf16"),
    ("fp8", "bf16", "fp8"),
    ("fp8", "megatron", "bf16", "fp8"),
)
"""Ways of which the first and the last folder must have the same values."""


def measure(context: Context) -> Result:
    cfg = preset("ling-tiny").replace(**context["shape"])
    figures, equal = [], []
    for way in ROUND_TRIPS:
        total, other = travelled(cfg, way, context)
        equal.append(other == 0)
        figures.append(
            Figure(
                " → ".join(way),
                "the same values",
                f"{total - other} of {total} tensors equal bit for bit",
                "measured",
                total - other,
            )
        )
    return Result(
        figures,
        "agrees" if all(equal) else "disagrees",
        f"{sum(equal)} of {len(equal)} ways end with the values that they began with. From "
        "bf16 to FP8 values are rounded once: a folder in FP8 is what the last two begin "
        "with.",
    )


def travelled(cfg: Any, way: tuple[str, ...], context: Context) -> tuple[int, int]:
    """Tensors, and those of them whose bits differ after the way."""
    import shutil

    from ...convert.plan import convert
    from ...convert.synth import synth

    folder = context.work / "-".join(way)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    first = at = folder / f"0-{way[0]}"
    synth(cfg, first, to=way[0], seed=context.seed, log=lambda _: None)
    for n, to in enumerate(way[1:], 1):
        after = folder / f"{n}-{to}"
        after = after.with_suffix(".gguf") if to == "gguf" else after
        convert(at, after, to=to)
        at = after
    try:
        return compared(first, at)
    finally:
        shutil.rmtree(folder)


def compared(a: Path, b: Path) -> tuple[int, int]:
    """Tensors of the first checkpoint, and those that the second lacks or has otherwise."""
    import torch

    from ...checkpoint.open import open_source
    from ...model.names import tensor_specs

    with contextlib.closing(open_source(a)) as first, contextlib.closing(open_source(b)) as second:
        names = tensor_specs(first.config)
        known = tensor_specs(second.config)
        other = 0
        for name in names:
            x = first.values(name)
            y = second.values(name) if name in known else None
            same = y is not None and x.shape == y.shape and torch.equal(x.float(), y.float())
            other += not same
    return len(names), other


_SHAPE = {
    "shape": {
        "hidden_size": 128,
        "num_attention_heads": 4,
        "moe_intermediate_size": 128,
        "intermediate_size": 256,
    }
}

CLAIM = Claim(
    name="conversion",
    title="Conversion there and back",
    published="Checkpoints are converted between Hugging Face and Megatron folders in both "
    "directions, in bf16 and FP8.",
    source="README, training guides",
    differs="A small model with random weights, through `ling convert`; the original's own "
    "tool is not run. Names and layouts of the released models are the same code.",
    quick=Scale(budget_s=15, settings=_SHAPE),
    full=Scale(budget_s=15, settings=_SHAPE),
    measure=measure,
)
