"""The page of a report: one HTML file that needs nothing else, neither network nor server."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files.atomic import write_atomic
from ..loads import LoadMap
from . import tables
from .runs import RunData, read_runs

_ASSETS = Path(__file__).parent / "assets"
# Of all runs together, so that a page stays within a few MB; a curve is about 600 pixels wide.
_POINTS, _MOST_POINTS, _LEAST_POINTS = 2400, 800, 150
_MAP_CELLS = 400_000


def report(folders: Sequence[Path], target: Path) -> int:
    """Write the page of these runs to `target`; returns its bytes.

    Raises `UsageError` for a folder without a log and `DataError` for a damaged one.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    text = page(read_runs(unique))
    write_atomic(target, text)
    return len(text.encode())


def page(runs: Sequence[RunData]) -> str:
    """The HTML."""
    title = html.escape(", ".join(run.name for run in runs))
    parts = {
        "TITLE": title,
        "WHEN": time.strftime("%Y-%m-%d %H:%M"),
        "STYLE": (_ASSETS / "report.css").read_text("utf-8"),
        "SCRIPT": (_ASSETS / "report.js").read_text("utf-8"),
        "SUMMARY": tables.summary(runs),
        "SAMPLES": tables.samples(runs),
        "RECIPES": tables.recipes(runs),
        "MACHINES": tables.machines(runs),
        "DATA": _in_script([_data(run, len(runs)) for run in runs]),
    }
    pieces = (_ASSETS / "report.html").read_text("utf-8").split("@@")
    # Each part once and never looked into: a name in it may look like another part's.
    return "".join(parts[piece] if n % 2 else piece for n, piece in enumerate(pieces))


def _in_script(value: Any) -> str:
    """JSON that cannot end the element it is in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(run: RunData, runs: int) -> dict[str, Any]:
    points = min(max(_POINTS // runs, _LEAST_POINTS), _MOST_POINTS)
    starts = [start.get("after_step") for start in run.starts[1:]]
    return {
        "name": run.name,
        "series": {key: series.thinned(points) for key, series in run.series.items()},
        "skipped": run.skipped[:: max(len(run.skipped) // 200, 1)],
        "restarts": [step for step in starts if isinstance(step, int)],
        "loads": _loads(run.loads, _MAP_CELLS // runs),
    }


def _loads(loads: LoadMap, cells: int) -> dict[str, Any] | None:
    """Load over its layer's mean as a byte: 0 is no token, else 128 + 24 · log2 of it."""
    if not loads.counts:
        return None
    loads = loads.merged(cells // loads.counts[0].size)
    counts, share = np.stack(loads.counts), loads.shares()
    codes = np.clip(np.round(128 + 24 * np.log2(np.maximum(share, 1e-9))), 1, 255)
    codes = np.where(counts > 0, codes, 0).astype(np.uint8)
    return {
        "layers": loads.layers,
        "experts": counts.shape[-1],
        "spans": loads.spans,
        "codes": base64.b64encode(codes.tobytes()).decode(),
        "peak": [[float(f"{v:.4g}") for v in row] for row in share.max(-1)],
        "dead": (counts == 0).sum(-1).tolist(),
    }
