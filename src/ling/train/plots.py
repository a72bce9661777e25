"""Pictures of a run: losses, expert load at its end and over time, drift of the router bias."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .loads import LoadMap
from .log import each_row
from .report.series import Series

# Of the steps, this many are averaged for the smooth line.
_SMOOTH_SHARE = 0.04
# Of the expert loads, at least this many spans of steps once a run is that long.
_SPANS = 60
_BIAS = "router_bias/"
_FP8 = {
    "fp8_underflow/": "values that become 0",
    "fp8_cosine/": "cosine with what is quantised",
}
_LABELS = {
    "loss": "next token",
    "mtp_loss": "token after next (MTP: a layer that looks one token further)",
}


def draw(run: Path, title: str) -> list[Path]:
    """Pictures of losses, expert load and router bias; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    curves, loads, scales = _read(run / "metrics.jsonl")
    matplotlib.use("Agg")
    out = [_draw_losses(run, curves, title)]
    if loads.counts:
        out += [_draw_load(run, loads, title), _draw_history(run, loads, title)]
    bias = {k.removeprefix(_BIAS): c for k, c in curves.items() if k.startswith(_BIAS)}
    if bias:
        out.append(_draw_bias(run, bias, title))
    if scales:
        out.append(_draw_fp8(run, curves, scales, title))
    return out


def _read(path: Path) -> tuple[dict[str, Series], LoadMap, dict[str, dict[str, float]]]:
    """Curves that are drawn, expert loads added up over spans of steps (a long run's rows do not
    fit into memory), and the last histograms of FP8 scales."""
    curves: dict[str, Series] = defaultdict(Series)
    loads = LoadMap(_SPANS)
    scales: dict[str, dict[str, float]] = {}
    for row in each_row(path):
        for key, value in _points(row):
            curves[key].add(row["step"], value)
        if row.get("expert_load"):
            loads.add(row["step"], row["expert_load"])
        scales = row.get("fp8_scales") or scales
    return curves, loads, scales


def _points(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key in _LABELS:
        for name in (key, f"valid_{key}"):
            if row.get(name) is not None:
                yield name, row[name]
    for table in (_BIAS, *_FP8):
        entries = row.get(table.removesuffix("/")) or {}
        yield from ((table + name, value) for name, value in entries.items())


def _draw_losses(run: Path, curves: dict[str, Series], title: str) -> Path:
    """Every step thin, its running mean over it, held-out losses as points."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    for key, label in _LABELS.items():
        steps, losses = _finite(curves, key)
        if not len(steps):
            continue
        (line,) = axes.plot(steps, smooth(losses), label=label, linewidth=1.6, zorder=2)
        axes.plot(steps, losses, color=line.get_color(), alpha=0.3, linewidth=0.7, zorder=1)
        held_out = _finite(curves, f"valid_{key}")
        if len(held_out[0]):
            style: dict[str, Any] = {
                "color": line.get_color(),
                "marker": "o",
                "linestyle": "none",
                "zorder": 3,
            }
            axes.plot(*held_out, markeredgecolor="black", label="the same, held-out text", **style)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", title=f"Loss\n{title}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, run / "loss.png")


def _draw_load(run: Path, loads: LoadMap, title: str) -> Path:
    """Tokens of each expert in the last steps, as a multiple of its layer's mean."""
    from matplotlib import pyplot as plt

    end = loads.at_end()
    (share,), ((first, last),) = end.shares(), end.spans
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(loads.layers) + 2.2))
    image = _load_image(axes, share)
    axes.set(
        xlabel="expert", ylabel="layer", title=f"Expert load, steps {first} to {last}\n{title}"
    )
    axes.set_yticks(range(len(loads.layers)), loads.layers)
    _load_scale(figure, image, axes)
    return _save(figure, run / "expert_load.png")


def _draw_history(run: Path, loads: LoadMap, title: str) -> Path:
    """The same over time: a strip for each layer, in it a line for each expert."""
    from matplotlib import pyplot as plt

    share = np.moveaxis(loads.shares(), 0, -1)
    layers, experts, spans = share.shape
    figure, axes = plt.subplots(figsize=(8, min(0.9 * layers, 24) + 2.2))
    image = _load_image(axes, share.reshape(layers * experts, spans))
    axes.set(xlabel="optimizer step", ylabel="layer, and its experts from the top")
    axes.set_title(f"Expert load over time\n{title}")
    axes.set_yticks(np.arange(layers) * experts + (experts - 1) / 2, loads.layers)
    for border in range(1, layers):
        axes.axhline(border * experts - 0.5, color="black", linewidth=0.8)
    shown = np.unique(np.linspace(0, spans - 1, 7).astype(int))
    axes.set_xticks(shown, [str(loads.spans[n][1]) for n in shown])
    _load_scale(figure, image, axes)
    return _save(figure, run / "expert_load_over_time.png")


def _load_image(axes: Any, share: np.ndarray) -> Any:
    from matplotlib import colors

    norm = colors.TwoSlopeNorm(vmin=0, vcenter=1, vmax=max(2.0, float(share.max())))
    return axes.imshow(share, aspect="auto", cmap="coolwarm", norm=norm, interpolation="nearest")


def _load_scale(figure: Any, image: Any, axes: Any) -> None:
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("tokens / mean\nof the layer (1 = even)")


def _draw_bias(run: Path, layers: dict[str, Series], title: str) -> Path:
    """The largest |bias| of each layer; one that grows without end follows no balance."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(layers)))
    for (layer, curve), shade in zip(layers.items(), shades, strict=True):
        marker = "o" if len(curve.steps) == 1 else None
        axes.plot(curve.steps, curve.values, color=shade, label=f"layer {layer}", marker=marker)
    axes.set(xlabel="optimizer step", ylabel="largest |bias|", title=f"Router bias\n{title}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=max(1, len(layers) // 8))
    return _save(figure, run / "router_bias.png")


def _draw_fp8(
    run: Path, curves: dict[str, Series], scales: dict[str, dict[str, float]], title: str
) -> Path:
    """What FP8 loses over time, a line for each kind of tensor and part; below the last scales."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(len(_FP8) + 1, figsize=(8, 11), layout="constrained")
    shades = plt.get_cmap("tab20")(np.linspace(0, 1, max(len(scales), 2)))
    colors = dict(zip(scales, shades, strict=False))
    for axes, (table, label) in zip(panels, _FP8.items(), strict=False):
        for name, color in colors.items():
            axes.plot(*_finite(curves, table + name), color=color, label=name, marker=".")
        axes.set(xlabel="optimizer step", ylabel=label)
        axes.ticklabel_format(axis="y", useOffset=False)  # cosines differ in their last digits
        axes.grid(alpha=0.3)
    for name, shares in scales.items():
        panels[-1].plot(*_histogram(shares), color=colors[name], marker=".")
    panels[-1].set(xlabel="scale of a tile, log2", ylabel="share of tiles, last measured step")
    panels[0].set_title(f"FP8\n{title}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    return _save(figure, run / "fp8.png")


def _histogram(shares: dict[str, float]) -> tuple[range, list[float]]:
    """Exponents from below the first to above the last, and their shares, mostly 0 in between."""
    found = {int(e): share for e, share in shares.items()}
    exponents = range(min(found) - 1, max(found) + 2)
    return exponents, [found.get(e, 0.0) for e in exponents]


def _finite(curves: dict[str, Series], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a curve; none of one that was not logged."""
    curve = curves.get(key, Series())
    steps, values = np.array(curve.steps), np.array(curve.values)
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean of each value's neighbours, fewer of them near both ends."""
    half = round(len(values) * _SMOOTH_SHARE / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    reach = np.minimum(half, np.minimum(at, len(values) - 1 - at))
    return (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path
