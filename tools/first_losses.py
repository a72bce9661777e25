"""First losses of a run beside those that are committed: `python tools/first_losses.py RUN FILE`.

Exits with 1 and the first step that differs in a bit, or where the run has fewer steps than FILE.
`--write N` makes FILE of the first N steps. On another kind of processor, or with another torch,
last bits may differ; with another Python, its standard library is other text to train on. What FILE
was made with is printed where it is not what is here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ling.train.log import read_metrics
from ling.train.starts import machine_facts

KEYS = ("step", "loss", "mtp_loss", "grad_norm")
MATTERS = ("cpu", "gpu", "python", "torch", "commit")


def first_rows(run: Path, count: int) -> list[list[Any]]:
    """The columns `KEYS` of the first `count` steps, floats with all their bits."""
    return [[row[key] for key in KEYS] for row in read_metrics(run / "metrics.jsonl")[:count]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", type=int, metavar="N")
    ns = parser.parse_args()
    if ns.write:
        rows = first_rows(ns.run, ns.write)
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        head = json.dumps({"machine": machine_facts(), "columns": KEYS})[:-1]
        ns.file.write_text(f'{head},\n "rows": [\n{lines}\n]}}\n')
        return 0
    known = json.loads(ns.file.read_text())
    found, expected = first_rows(ns.run, len(known["rows"])), known["rows"]
    for was, now in zip(expected, found, strict=False):
        if was != now:
            print(f"step {was[0]}: {dict(zip(KEYS, now, strict=True))}, expected {was[1:]}")
            _say_what_differs(known["machine"])
            return 1
    print(f"{len(found)} of {len(expected)} steps, all bits the same")
    return int(len(found) < len(expected))


def _say_what_differs(before: dict[str, Any]) -> None:
    here = machine_facts()
    for key in MATTERS:
        if here[key] != before[key]:
            print(f"{key}: {before[key]} there, {here[key]} here")


if __name__ == "__main__":
    raise SystemExit(main())
