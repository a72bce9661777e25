"""Pictures of a run: losses, expert load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .log import read_metrics


def draw(run: Path, title: str) -> list[Path]:
    """Pictures of the loss and of the expert load per layer; none without matplotlib."""
    rows = read_metrics(run / "metrics.jsonl")
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    for key, label in (("loss", "next token"), ("mtp_loss", "MTP (token after next)")):
        points = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
    held_out = [(r["step"], r["valid_loss"]) for r in rows if r.get("valid_loss") is not None]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "k.", label="held out")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=f"{title}: loss")
    axes.grid(alpha=0.3)
    axes.legend()
    out = [_save(figure, run / "loss.png")]
    loads = [r["expert_load"] for r in rows if r.get("expert_load")]
    if loads:
        layers = list(loads[-1])
        recent = loads[-max(len(loads) // 10, 1) :]
        share = torch.tensor([[r[layer] for layer in layers] for r in recent]).float().sum(0)
        share = share / share.mean(-1, keepdim=True)
        figure, axes = plt.subplots(figsize=(8, 0.5 * len(layers) + 2))
        image = axes.imshow(share.numpy(), aspect="auto", cmap="coolwarm", vmin=0, vmax=2)
        axes.set(
            xlabel="expert", title=f"{title}: expert load over its layer's mean, last 10% of steps"
        )
        axes.set_yticks(range(len(layers)), [f"layer {n}" for n in layers])
        figure.colorbar(image, ax=axes)
        out.append(_save(figure, run / "expert_load.png"))
    return out


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path
