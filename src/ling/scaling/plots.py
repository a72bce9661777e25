"""Pictures of a sweep and its fits: loss and leverage over compute, learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import laws
from .fit import COUNTS, Fit
from .learning_rate import BestRate
from .power_law import FittedPowerLaw
from .predict import number
from .results import Row

_TITLES = {"without_head": "without the head (the laws' count)", "with_head": "with the head"}
_LAW_RANGE = (1e12, 1e23)
_MARKERS = "osD^v"


def draw(found: Fit, folder: Path) -> dict[str, Path]:
    """Write the pictures that there are numbers for, by name; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return {}
    matplotlib.use("Agg")
    drawn = {"loss": _loss, "budgets": _budgets}
    if any(count.leverage.read for count in found.counts.values()):
        drawn["leverage"] = _leverage
    if found.rates:
        drawn["lr"] = _rates
    return {
        name: _save(make(found), folder / f"scaling-{name}.png") for name, make in drawn.items()
    }


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _figure(columns: int, width: float = 5.6) -> tuple[Any, Any]:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, columns, figsize=(width * columns, 4.8), layout="constrained", squeeze=False
    )
    return figure, axes[0]


def _colors(found: Fit) -> dict[str, str]:
    return {family: f"C{n}" for n, family in enumerate(found.selection.families)}


# ---- loss --------------------------------------------------------------------------------------


def _loss(found: Fit) -> Any:
    """Both counts of compute: every run, the frontier, its law, what was held out."""
    figure, panels = _figure(len(COUNTS))
    for axes, (name, with_head) in zip(panels, COUNTS.items(), strict=True):
        for family, color in _colors(found).items():
            rows = [r for r in found.selection.at_grid_lr() if r.family == family]
            _runs(axes, rows, with_head, family, color)
            law = found.counts[name].power_laws.get(family)
            if isinstance(law, FittedPowerLaw):
                _law(axes, law, [r.cost(with_head) for r in rows], color)
        _flops_axis(axes, f"training FLOPs, {_TITLES[name]}")
        _plain_losses(axes)
    panels[0].set_ylabel("held-out loss (nats per token)")
    _legend(panels[0], figure)
    return figure


def _runs(axes: Any, rows: Sequence[Row], with_head: bool, family: str, color: str) -> None:
    kept = [r for r in rows if not r.held_out]
    style: dict[str, Any] = {"color": color, "linestyle": "none", "markersize": 6}
    if kept:
        x, y = [r.cost(with_head) for r in kept], [r.final_loss for r in kept]
        axes.plot(x, y, marker="o", label=family, alpha=0.8, **style)
    held_out = [r for r in rows if r.held_out]
    if held_out:
        x, y = [r.cost(with_head) for r in held_out], [r.final_loss for r in held_out]
        axes.plot(x, y, marker="D", fillstyle="none", label=f"{family}, held out", **style)


def _law(axes: Any, law: FittedPowerLaw, flops: Sequence[float], color: str) -> None:
    """The line over all runs, held-out ones included, with its interval."""
    x = np.geomspace(min(flops), max(flops), 50)
    axes.plot(x, [law.law.at(c) for c in x], color=color, linewidth=1.4)
    around = law.curve(x.tolist())
    if around is not None:
        axes.fill_between(x, *around, color=color, alpha=0.15, linewidth=0)


def _plain_losses(axes: Any) -> None:
    """A logarithmic axis of losses has numbers such as 3.5, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    axes.grid(alpha=0.3)


def _flops_axis(axes: Any, label: str) -> None:
    """A logarithmic axis with numbers as the text has them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", xlabel=label)
    low, high = axes.get_xlim()
    subs = (1.0, 3.0) if high / low < 1e4 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda flops, _: number(flops)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Any, figure: Any) -> None:
    """Below all panels, where it hides no point."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")


def _budgets(found: Fit) -> Any:
    """A panel for each family: loss over size, a line for each budget."""
    families = found.selection.families
    figure, panels = _figure(len(families), 4.2)
    rows = found.selection.at_grid_lr()
    budgets = sorted({r.target_flops for r in rows})
    lowest, highest = min(r.final_loss for r in rows), max(r.final_loss for r in rows)
    for axes, family in zip(panels, families, strict=True):
        for n, flops in enumerate(budgets):
            of = [r for r in rows if (r.family, r.target_flops) == (family, flops)]
            if of:
                _budget(axes, of, _MARKERS[n % 5], f"C{n + 3}", f"{number(flops)} FLOPs")
        axes.set_title(family)
        _flops_axis(axes, "training FLOPs per token, without the head")
        margin = 0.05 * (highest - lowest) or 0.1
        axes.set_ylim(lowest - margin, highest + margin)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("held-out loss (nats per token)")
    _legend(panels[0], figure)
    return figure


def _budget(axes: Any, rows: Sequence[Row], marker: str, color: str, label: str) -> None:
    """Points of runs, and a line through the means of their seeds."""
    sizes = sorted({r.flops_per_token for r in rows})
    means = [np.mean([r.final_loss for r in rows if r.flops_per_token == x]) for x in sizes]
    axes.plot(sizes, means, color=color, linewidth=1.2)
    x, y = [r.flops_per_token for r in rows], [r.final_loss for r in rows]
    axes.plot(x, y, marker, color=color, label=label)


# ---- leverage ----------------------------------------------------------------------------------


def _leverage(found: Fit) -> Any:
    """What was measured beside the published law, and the law as far as its claim."""
    figure, (near, far) = _figure(2)
    reads = [read for count in found.counts.values() for read in count.leverage.read]
    flops = [read.flops for read in reads]
    for axes in (near, far):
        for family, color in _colors(found).items():
            for name, with_head in COUNTS.items():
                _measured(axes, found, family, name, color, hollow=with_head)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
    _published(near, found, (min(flops) / 1.5, max(flops) * 1.5))
    _published(far, found, _LAW_RANGE)
    _claim(far)
    for axes in (near, far):
        _flops_axis(axes, "training FLOPs of the mixture of experts")
    near.set(title="what was measured", ylabel="leverage: FLOPs of dense / of experts, equal loss")
    far.set_title("the published law as far as its claim")
    _legend(far, figure)
    return figure


def _measured(axes: Any, found: Fit, family: str, name: str, color: str, *, hollow: bool) -> None:
    reads = [r for r in found.counts[name].leverage.read if r.family == family]
    if not reads:
        return
    around = [r.leverage_interval or (r.leverage, r.leverage) for r in reads]
    errors = np.abs(np.array(around).T - [r.leverage for r in reads])
    axes.errorbar(
        [r.flops for r in reads],
        [r.leverage for r in reads],
        errors,
        fmt="s" if hollow else "o",
        fillstyle="none" if hollow else "full",
        color=color,
        capsize=3,
        linewidth=1,
        label=f"{family}, {'with' if hollow else 'without'} head",
    )


def _published(axes: Any, found: Fit, span: tuple[float, float]) -> None:
    x = np.geomspace(*span, 60)
    colors = _colors(found)
    for family, (a, g) in _shapes(found):
        law = [laws.leverage(a, g, c) for c in x]
        axes.plot(x, law, color=colors[family], linewidth=1.2, label=f"{family}, published law")


def _claim(axes: Any) -> None:
    """What the family claims, and the law of the shape that it is claimed for."""
    claim, x = laws.CLAIM, np.geomspace(*_LAW_RANGE, 60)
    a, g = claim["activation_ratio"], claim["granularity"]
    label = f"published law, A = {a:.1%}, G = {g:g}"
    axes.plot(x, [laws.leverage(a, g, c) for c in x], "k--", linewidth=1, label=label)
    axes.plot(claim["flops"], claim["at_least"], "k*", markersize=12)
    axes.annotate(
        f"claim: {claim['at_least']:g}× at {number(claim['flops'])}",
        (claim["flops"], claim["at_least"]),
        (-12, 0),
        textcoords="offset points",
        ha="right",
        va="center",
    )


def _shapes(found: Fit) -> Iterator[tuple[str, tuple[float, float]]]:
    """Activation ratio and granularity of each mixture, by its first run."""
    for family in found.selection.families:
        row = next(r for r in found.selection.rows if r.family == family)
        if row.granularity is not None:
            yield family, (row.activation_ratio, row.granularity)


# ---- learning rates ----------------------------------------------------------------------------


def _rates(found: Fit) -> Any:
    figure, (axes,) = _figure(1, 7)
    for n, rate in enumerate(found.rates):
        label = f"{rate.family}, {rate.size}, {number(rate.target_flops)} FLOPs"
        axes.plot(rate.factors, rate.losses, _MARKERS[n % 5], color=f"C{n}", label=label)
        if rate.factor is not None:
            _parabola(axes, rate, f"C{n}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks := sorted({f for rate in found.rates for f in rate.factors}))
    axes.set_xticklabels([f"×{factor:g}" for factor in ticks])
    axes.set(xlabel="learning rate, as a multiple of the grid's")
    axes.set_ylabel("held-out loss (nats per token)")
    axes.grid(alpha=0.3)
    _legend(axes, figure)
    return figure


def _parabola(axes: Any, rate: BestRate, color: str) -> None:
    x = np.log2(rate.factors)
    fitted, fine = np.polyfit(x, rate.losses, 2), np.linspace(x[0], x[-1], 60)
    axes.plot(2**fine, np.polyval(fitted, fine), color=color, linewidth=1)
    assert rate.factor is not None
    lowest = float(np.polyval(fitted, math.log2(rate.factor)))
    axes.plot(rate.factor, lowest, "|", color=color, markersize=16)
    if rate.factor_interval is not None:
        axes.hlines(lowest, *rate.factor_interval, color=color, linewidth=4, alpha=0.3)
