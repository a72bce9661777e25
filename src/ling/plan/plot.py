"""A picture of a plan: memory of each rank by kind, and the passes of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UsageError
from .constants import Constants
from .estimate import Estimate, timeline

_GB = 1e9


def draw(found: Estimate, constants: Constants, path: Path) -> None:
    """Write a PNG; `UsageError` without matplotlib, or where `path` cannot be written."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("`--plot` needs matplotlib: pip install 'ling[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    has_pipeline = found.recipe.parallel.pp > 1
    rows = 2 if has_pipeline else 1
    figure, axes = pyplot.subplots(rows, 1, figsize=(9, 3.6 * rows), squeeze=False)
    _memory(axes[0][0], found)
    if has_pipeline:
        _pipeline(axes[1][0], found, constants)
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as err:
        raise UsageError(f"`--plot {path}`: {err.strerror}") from None
    finally:
        pyplot.close(figure)


def _memory(axes: Any, found: Estimate) -> None:
    """Bars of what each rank holds at most, and lines of peak and limit."""
    names = [f"{m.rank}–{m.last}" if m.last > m.rank else f"{m.rank}" for m in found.memory]
    left = [0.0] * len(names)
    for n, kind in enumerate(found.memory[0].kinds()):
        sizes = [m.kinds()[kind] / _GB for m in found.memory]
        if any(sizes):
            axes.barh(names, sizes, left=left, label=kind.replace("_", " "), color=f"C{n}")
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    for n, m in enumerate(found.memory):
        axes.plot(
            [m.peak / _GB] * 2, [n - 0.4, n + 0.4], color="black", lw=2, label="peak"[n * 4 :]
        )
    axes.axvline(found.gpu.usable_bytes / _GB, color="red", ls="--", label="usable")
    axes.invert_yaxis()
    axes.set_xlabel("GB of each kind at most; the peak is less than their sum")
    axes.set_ylabel("ranks")
    axes.set_title(f"{found.recipe.model} on {found.recipe.parallel.world} × {found.gpu.name}")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))


def _pipeline(axes: Any, found: Estimate, constants: Constants) -> None:
    """Passes of the first micro-batches by rank; backward passes are darker."""
    line = timeline(found, constants)
    for rank, row in enumerate(line.ranks):
        for t in row:
            shade = f"C{t.what.stage // len(line.ranks)}"
            alpha = 0.45 if t.what.is_forward else 0.9
            width = t.end - t.start
            axes.barh(
                rank, width, left=t.start, color=shade, alpha=alpha, edgecolor="white", lw=0.5
            )
    axes.set_yticks(range(len(line.ranks)))
    axes.invert_yaxis()
    axes.set_xlabel("seconds; forward passes light, backward passes dark")
    axes.set_ylabel("rank of the pipeline")
    axes.set_title(f"the first micro-batches; waiting in a whole step {found.bubble:.0%}")
