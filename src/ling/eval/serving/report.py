"""What `ling bench serve` reports: rates and times of a point, faults by name, ratios, a table."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..peers import interval
from .drive import Measurement
from .replies import Reply

Row = dict[str, Any]


def summary(measurements: Sequence[Measurement]) -> Row:
    """One server at one point. Rates are medians of the measurements, percentiles are those of all
    requests; only whole answers count, the others are in `faults`."""
    replies = [r for m in measurements for r in m.replies]
    whole = [r for r in replies if r.fault is None]
    row: Row = {
        "requests": len(replies),
        "completed": len(whole),
        "faults": dict(Counter(r.fault for r in replies if r.fault is not None)),
        "fault_details": _details(replies),
        "samples": [_rate(m, _output) for m in measurements],
        "output_tokens_per_s": statistics.median(_rate(m, _output) for m in measurements),
        "total_tokens_per_s": statistics.median(_rate(m, _total) for m in measurements),
        "requests_per_s": statistics.median(_rate(m, lambda r: 1) for m in measurements),
        "mean_input_tokens": _mean(r.prompt_tokens for r in whole),
        "mean_cached_tokens": _mean(r.cached_tokens for r in whole),
        "mean_output_tokens": _mean(r.tokens for r in whole),
        "tokens_counted_by": "usage" if _has_usage(whole) else "events",
        **_times("ttft_ms", [r.first_token_s for r in whole]),
        **_times("itl_ms", [gap for r in whole for gap in r.gaps_s]),
        **_times("tpot_ms", [r.per_token_s for r in whole]),
        **_times("e2el_ms", [r.end_s - r.sent_s for r in whole]),
        "client_cpu_s": sum(m.client_cpu_s for m in measurements),
        "wall_s": sum(m.wall_s for m in measurements),
    }
    refused = [r.end_s - r.sent_s for r in replies if r.status == 429]
    if refused:
        row |= _times("refused_ms", refused)
    for path in sorted({path for m in measurements for path in m.probes_s}):
        seconds = [s for m in measurements for s in m.probes_s.get(path, [])]
        row |= _times(f"{path.strip('/')}_ms", [s for s in seconds if math.isfinite(s)])
        row[f"{path.strip('/')}_failed"] = sum(math.isinf(s) for s in seconds)
    beside = [r for m in measurements for r in m.background]
    if beside:
        row["background_completed"] = sum(r.fault is None for r in beside)
    return row | _server_use(measurements, whole)


def _server_use(measurements: Sequence[Measurement], whole: Sequence[Reply]) -> Row:
    """Processor seconds a token, and memory; empty where the process cannot be seen."""
    used = [(m.before, m.after) for m in measurements if m.before and m.after]
    if len(used) < len(measurements):
        return {}
    seconds = sum(after.cpu_s - before.cpu_s for before, after in used)
    tokens = sum(r.tokens for r in whole)
    return {
        "server_cpu_s": seconds,
        "server_cpu_ms_per_token": 1e3 * seconds / tokens if tokens else None,
        "server_rss_gb": used[-1][1].rss_bytes / 1e9,
        "server_peak_rss_gb": used[-1][1].peak_rss_bytes / 1e9,
    }


def ratios(ours: Sequence[Measurement], theirs: Sequence[Measurement]) -> Row:
    """Ours over theirs, of neighbours: above 1 is better in tokens/s, below 1 in times."""
    pairs = [(summary([a]), summary([b])) for a, b in zip(ours, theirs, strict=True)]
    row: Row = {}
    for key in (
        "output_tokens_per_s",
        "ttft_ms_p50",
        "ttft_ms_p99",
        "itl_ms_p50",
        "itl_ms_p99",
        "server_cpu_ms_per_token",
    ):
        both = [(a.get(key), b.get(key)) for a, b in pairs]
        found = [a / b for a, b in both if a is not None and b]
        if len(found) == len(pairs):
            row[key] = statistics.median(found)
            row[f"{key}_interval"] = interval(found)
    return row


def _rate(measurement: Measurement, weight: Any) -> float:
    whole = [r for r in measurement.replies if r.fault is None]
    return sum(weight(r) for r in whole) / measurement.wall_s if measurement.wall_s else 0.0


def _output(reply: Reply) -> int:
    return reply.tokens


def _total(reply: Reply) -> int:
    return reply.tokens + (reply.prompt_tokens or 0)


def _has_usage(replies: Sequence[Reply]) -> bool:
    return all(r.completion_tokens is not None for r in replies)


def _mean(values: Iterable[int | None]) -> float | None:
    found = [v for v in values if v is not None]
    return statistics.fmean(found) if found else None


def _times(name: str, seconds: Sequence[float | None]) -> Row:
    """Median, 99th percentile and mean in milliseconds; None without a value."""
    found = np.array([s for s in seconds if s is not None]) * 1e3
    if not len(found):
        return {f"{name}_{key}": None for key in ("p50", "p99", "mean")}
    p50, p99 = np.percentile(found, [50, 99])
    return {
        f"{name}_p50": float(p50),
        f"{name}_p99": float(p99),
        f"{name}_mean": float(found.mean()),
    }


def _details(replies: Sequence[Reply]) -> dict[str, str]:
    """The server's words for the first of each fault."""
    found: dict[str, str] = {}
    for reply in replies:
        if reply.fault is not None and reply.detail:
            found.setdefault(reply.fault, reply.detail)
    return found


# ---- the table ---------------------------------------------------------------------------------

COLUMNS = (
    ("tokens/s", "output_tokens_per_s", "{:,.1f}"),
    ("req/s", "requests_per_s", "{:.2f}"),
    ("first p50", "ttft_ms_p50", "{:,.0f} ms"),
    ("p99", "ttft_ms_p99", "{:,.0f} ms"),
    ("next p50", "itl_ms_p50", "{:,.1f} ms"),
    ("p99", "itl_ms_p99", "{:,.1f} ms"),
    ("CPU/token", "server_cpu_ms_per_token", "{:,.2f} ms"),
    ("RSS", "server_rss_gb", "{:.2f} GB"),
)


def table(points: Sequence[Row]) -> list[str]:
    """Lines of a table: a row for each server at each point, and one with the ratio of both."""
    lines = [["", *(title for title, _, _ in COLUMNS), "complete"]]
    for point in points:
        for side in ("ours", "theirs"):
            if side in point:
                label = f"{point['name']}, {point[side]['server']}"
                lines.append([label, *_cells(point[side])])
        if "ratio" in point:
            row = point["ratio"]
            cells = [f"{row[key]:.2f}" if key in row else "" for _, key, _ in COLUMNS]
            lines.append([f"{point['name']}, ratio", *cells, ""])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _cells(row: Row) -> list[str]:
    cells = ["-" if row.get(key) is None else form.format(row[key]) for _, key, form in COLUMNS]
    return [*cells, f"{row['completed']}/{row['requests']}"]


def fault_lines(points: Sequence[Row]) -> list[str]:
    """A line for each kind of wrong answer, with how often it came and the first one's words."""
    lines = []
    for point in points:
        for side in ("ours", "theirs"):
            row = point.get(side, {})
            for fault, times in row.get("faults", {}).items():
                detail = row["fault_details"].get(fault)
                text = f"{point['name']}, {row['server']}: {times} × {fault}"
                lines.append(text + (f" ({detail})" if detail else ""))
    return lines
