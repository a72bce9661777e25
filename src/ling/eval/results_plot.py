"""The picture of an evaluation: a panel for each task, its models side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .results import Result

_TOKENS = re.compile(r"(?:^|[-_/])(\d+(?:\.\d+)?)([tb])$", re.IGNORECASE)
_STEP = re.compile(r"(?:step|iter)[-_]?0*(\d+)$", re.IGNORECASE)
_COLUMNS = 3


def draw(
    results: Sequence[Result], models: Sequence[str], names: Sequence[str], path: Path
) -> Path | None:
    """Write the picture; None without matplotlib. Models that are checkpoints of one training, by
    the tokens or steps in their names, are points of a line."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = list(dict.fromkeys(r.task for r in results))
    columns = min(_COLUMNS, len(tasks))
    lines = -(-len(tasks) // columns)
    size = (max(4.2 * columns, 5.5), 3.4 * lines + 0.4)
    figure, grid = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    along = positions(models)
    for axes, task in zip(grid.flat, tasks, strict=False):
        own = {r.model: r for r in results if r.task == task}
        outcome = next(iter(own.values())).outcome
        shown = [i for i, m in enumerate(models) if m in own]
        values = [own[models[i]].headline for i in shown]
        if along is not None:
            points = sorted((along[1][i], value) for i, value in zip(shown, values, strict=True))
            axes.plot(*zip(*points, strict=True), "o-", color="tab:blue")
            axes.set_xticks([at for at, _ in points])
            axes.set_xlabel(along[0])
        else:
            # A `$` would begin a formula.
            axes.bar(
                [names[i].replace("$", r"\$") for i in shown], values, color="tab:blue", width=0.6
            )
            axes.tick_params(axis="x", labelrotation=20 if len(shown) > 2 else 0)
            for k, value in enumerate(values):
                axes.annotate(f"{value:.3g}", (k, value), ha="center", va="bottom", fontsize=8)
            axes.margins(y=0.15)
        better = "higher" if outcome.higher_is_better else "lower"
        title = task.replace("$", r"\$")
        axes.set_title(f"{title}\n{outcome.headline.split('/')[-1]} ({better} is better)", size=10)
        axes.grid(alpha=0.3, axis="y")
    for axes in list(grid.flat)[len(tasks) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def positions(models: Sequence[str]) -> tuple[str, list[float]] | None:
    """Where checkpoints of a training are: the axis' name and a number for each model. None where a
    name says neither tokens (`...-5t`, in trillions; `b`, in billions) nor steps, or there are
    fewer than three."""
    if len(models) < 3:
        return None
    bare = [m.rstrip("/") for m in models]
    tokens = [_TOKENS.search(m) for m in bare]
    if all(tokens) and len({m[: t.start()] for m, t in zip(bare, tokens, strict=True) if t}) == 1:
        sizes = [float(t[1]) * (1 if t[2].lower() == "t" else 1e-3) for t in tokens if t]
        return "training tokens (trillions)", sizes
    steps = [_STEP.search(m) for m in bare]
    if all(steps):
        return "training step", [float(s[1]) for s in steps if s]
    return None
