"""The picture of a sweep: throughput, times and processor time over the points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Title, unit, and the curves of a panel: key of a row, what its legend adds, line style.
_PANELS: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("Throughput", "output tokens/s", (("output_tokens_per_s", "", "-"),)),
    ("Time to first token", "ms", (("ttft_ms_p50", "p50", "-"), ("ttft_ms_p99", "p99", "--"))),
    ("Time between tokens", "ms", (("itl_ms_p50", "p50", "-"), ("itl_ms_p99", "p99", "--"))),
    ("Processor time of the server", "ms a token", (("server_cpu_ms_per_token", "", "-"),)),
)


def draw(report: dict[str, Any], path: Path) -> Path | None:
    """Write the picture of a report; None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axes, (title, unit, curves) in zip(panels.flat, _PANELS, strict=True):
        _panel(axes, report, title, unit, curves)
    figure.suptitle(_title(report), fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _panel(
    axes: Any,
    report: dict[str, Any],
    title: str,
    unit: str,
    curves: tuple[tuple[str, str, str], ...],
) -> None:
    """One quantity of all servers; the axis names every point, however far apart they are."""
    points = report["points"]
    sides = [side for side in ("ours", "theirs") if side in points[0]]
    top = 0.0
    for color, side in enumerate(sides):
        for key, what, style in curves:
            values = [p[side].get(key) for p in points]
            if any(v is None for v in values):
                continue
            top = max(top, *values)
            label = " ".join(filter(None, (points[0][side]["server"], what)))
            axes.plot(range(len(points)), values, style, marker="o", color=f"C{color}", label=label)
    axes.set(title=title, ylabel=unit, xlabel="load", ylim=(0, 1.15 * top or 1))
    axes.set_xticks(range(len(points)), [p["name"] for p in points])
    axes.margins(x=0.12)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small", handlelength=3.5)
    else:
        axes.text(0.5, 0.5, "not known here", ha="center", transform=axes.transAxes)


def _title(report: dict[str, Any]) -> str:
    """What was measured, and when."""
    length = f"prompts of {report['random_input_len']}, answers of {report['random_output_len']}"
    if report["dataset_name"] == "multi-turn":
        length = f"{report['num_turns']} turns, each: {length}"
    sampling = ", ".join(f"{name} {value:g}" for name, value in report["sampling"].items())
    return (
        f"{' and '.join(report['servers'])}: {length} tokens, {sampling}\n"
        f"{report['date']}, {report['cores']} cores; {report['load']}"
    )
