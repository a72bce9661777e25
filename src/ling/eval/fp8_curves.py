"""Loss curves in bf16, in FP8, and of a control: what differs between the runs, and what they show.

The control is bf16 with half the micro-batch, so its sums are only added up in another order: what
it differs by is the noise that FP8 is measured against.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

LAST = 200
"""Steps whose mean loss is compared."""
RUNS: dict[str, dict[str, Any]] = {
    "bf16": {"train.micro_batch_size": 8},
    "fp8": {"train.micro_batch_size": 8, "train.fp8": "blockwise"},
    "control": {"train.micro_batch_size": 4},
}
LABELS = {"bf16": "bf16", "fp8": "FP8 blockwise", "control": "bf16, half the micro batch"}


def compared(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Numbers of each run, and relative differences to bf16."""
    found: dict[str, Any] = {"steps": rows["bf16"][-1]["step"], "runs": {}}
    for name, log in rows.items():
        found["runs"][name] = {
            "loss": float(np.mean([row["loss"] for row in log[-LAST:]])),
            "mtp_loss": float(np.mean([row["mtp_loss"] for row in log[-LAST:]])),
            "valid_loss": log[-1]["valid_loss"],
            "valid_mtp_loss": log[-1]["valid_mtp_loss"],
        }
    base = found["runs"]["bf16"]
    found["relative"] = {
        name: {key: run[key] / base[key] - 1 for key in base}
        for name, run in found["runs"].items()
        if name != "bf16"
    }
    fp8, control = found["relative"]["fp8"], found["relative"]["control"]
    found["fp8_within_control"] = {key: abs(fp8[key]) <= abs(control[key]) for key in fp8}
    return found


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Running means of the losses, and below their relative difference to bf16."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    steps = {name: [row["step"] for row in log] for name, log in rows.items()}
    means = {name: running_mean([row["loss"] for row in log]) for name, log in rows.items()}
    figure, (top, bottom) = plt.subplots(
        2, figsize=(8, 6.5), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    for name, mean in means.items():
        (line,) = top.plot(steps[name], mean, label=LABELS[name], linewidth=1.2)
        held_out = [(r["step"], r["valid_loss"]) for r in rows[name] if "valid_loss" in r]
        top.plot(*zip(*held_out, strict=True), "o", color=line.get_color(), markersize=4)
        if name != "bf16":
            for key, style in (("loss", "-"), ("mtp_loss", ":")):
                own, bf16 = (running_mean([row[key] for row in rows[n]]) for n in (name, "bf16"))
                difference = 100 * (own / bf16 - 1)
                bottom.plot(steps[name], difference, style, color=line.get_color(), linewidth=1.2)
    top.set(ylabel="loss (mean of 50 steps); points: held out", title="ling-nano, FP8 and bf16")
    top.legend()
    bottom.axhline(0, color="black", linewidth=0.8)
    for limit in (-0.25, 0.25):
        bottom.axhline(limit, color="grey", linewidth=0.8, linestyle="--")
    bottom.set(xlabel="step", ylabel="difference to bf16, %\n(dotted: MTP loss)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def running_mean(values: list[float], width: int = 50) -> np.ndarray:
    """Mean of each value and up to `width` - 1 before it."""
    sums = np.cumsum(np.concatenate(([0.0], values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
