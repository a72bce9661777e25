"""`ling scaling fit`: what the results of a sweep say, as JSON, pictures and a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .options import make_parser, say

if TYPE_CHECKING:
    from ..scaling.fit import Fit

_NAME = "scaling"


def fit(args: list[str]) -> None:
    parser = make_parser("scaling fit")
    parser.add_argument(
        "results", type=str, help="results.jsonl of `ling scaling sweep`, or the folder that has it"
    )
    parser.add_argument(
        "-o", "--out", type=str, required=True, help="folder for scaling.json, scaling.md, pictures"
    )
    parser.add_argument(
        "--hold-out",
        choices=["marked", "largest", "none"],
        default="marked",
        help="kept from the fits and predicted: what the grid marked, each family's largest budget",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    if ns.seed < 0:
        raise UsageError(f"`--seed` is {ns.seed}, expected at least 0")
    from ..files.atomic import make_folder, write_atomic
    from ..scaling.fit import as_dict
    from ..scaling.fit import fit as fitted
    from ..scaling.page import page
    from ..scaling.plots import draw
    from ..scaling.results import read_rows
    from ..scaling.sweep_folder import RESULTS

    results = Path(ns.results)
    rows = read_rows(results / RESULTS if results.is_dir() else results)
    folder = make_folder(Path(ns.out))
    found = fitted(rows, ns.hold_out, ns.seed)
    pictures = draw(found, folder)
    if not pictures:
        print("[no pictures: pip install 'ling[plot]']", file=sys.stderr)
    report = as_dict(found)
    write_atomic(folder / f"{_NAME}.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_atomic(folder / f"{_NAME}.md", page(found, results.name, pictures))
    say(report, ns.json, _summary(found, folder))


def _summary(found: Fit, folder: Path) -> str:
    """What there is, and what is missing."""
    from ..scaling.predict import number

    selection = found.selection
    lines = [f"{len(selection.rows)} runs of {', '.join(selection.families)}"]
    lines += [f"left out: {run} ({reason})" for run, reason in selection.left_out]
    lines += [f"note: {note}" for note in found.notes]
    lines += found.missing
    for by in dict.fromkeys(p.by for p in found.predictions):
        judged = [p.is_inside for p in found.predictions if p.by == by]
        known = f"{sum(map(bool, judged))} of {len(judged)} inside its interval"
        lines.append(f"predicted by {by}: {'interval unknown' if None in judged else known}")
    for read in found.counts["without_head"].leverage.read:
        law = f", published law {read.law:.2f}" if read.law else ""
        lines.append(f"leverage of {read.family} at {number(read.flops)}: {read.leverage:.2f}{law}")
    return "\n".join([*lines, f"page: {folder / f'{_NAME}.md'}"])
