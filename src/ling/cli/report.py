"""`ling report`: runs compared on one page."""

from __future__ import annotations

from pathlib import Path

from ..text import size
from .options import make_parser


def report(args: list[str]) -> None:
    parser = make_parser("report")
    parser.add_argument("runs", nargs="+", help="run folders (what `pretrain --out` named)")
    parser.add_argument(
        "-o", "--out", type=str, default="report.html", help="the page, one file that needs nothing"
    )
    ns = parser.parse_args(args)
    from ..train.report.page import report as write

    count = write([Path(run) for run in ns.runs], Path(ns.out))
    print(f"{ns.out}: {size(count)}, opens in any browser")
