"""First losses of a run beside those that are committed: `python tools/first_losses.py RUN FILE`.

Exits with 1 and the first step that differs in a bit, or where the run has fewer steps than FILE.
FILE has losses of one or more kinds of machine: those of this kind are compared, or the first
where there are none. On another kind of processor, or with another torch, last bits may differ;
with another Python, its standard library is other text to train on. What FILE was made with is
printed where it is not what is here. `--write N` puts the first N steps into FILE, in place of
those of this kind.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ling.train.log import read_metrics
from ling.train.starts import machine_facts

KEYS = ("step", "loss", "mtp_loss", "grad_norm")
KIND = ("cpu", "instruction_sets", "gpu", "python", "torch")
MATTERS = (*KIND, "commit")


def first_rows(run: Path, count: int) -> list[list[Any]]:
    """The columns `KEYS` of the first `count` steps, floats with all their bits."""
    return [[row[key] for key in KEYS] for row in read_metrics(run / "metrics.jsonl")[:count]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", type=int, metavar="N")
    ns = parser.parse_args()
    runs = json.loads(ns.file.read_text())["runs"] if ns.file.exists() else []
    same = [run for run in runs if _is_of_this_kind(run["machine"])]
    if ns.write:
        made = {"machine": machine_facts(), "rows": first_rows(ns.run, ns.write)}
        _write(ns.file, [*(run for run in runs if run not in same), made])
        return 0
    if not runs:
        parser.error(f"{ns.file}: no losses are there; --write N puts those of this run into it")
    known = (same or runs)[0]
    found, expected = first_rows(ns.run, len(known["rows"])), known["rows"]
    for was, now in zip(expected, found, strict=False):
        if was != now:
            print(f"step {was[0]}: {dict(zip(KEYS, now, strict=True))}, expected {was[1:]}")
            _say_what_differs(known["machine"])
            return 1
    print(f"{len(found)} of {len(expected)} steps, all bits the same")
    return int(len(found) < len(expected))


def _write(file: Path, runs: list[dict[str, Any]]) -> None:
    """With a line for each step."""
    parts = []
    for run in runs:
        rows = ",\n".join(f"  {json.dumps(row)}" for row in run["rows"])
        parts.append(f'{{"machine": {json.dumps(run["machine"])},\n "rows": [\n{rows}\n]}}')
    head, body = json.dumps({"columns": KEYS})[:-1], ",\n".join(parts)
    file.write_text(f'{head}, "runs": [\n{body}\n]}}\n')


def _is_of_this_kind(machine: dict[str, Any]) -> bool:
    here = machine_facts()
    return all(machine.get(key) == here[key] for key in KIND)


def _say_what_differs(before: dict[str, Any]) -> None:
    here = machine_facts()
    for key in MATTERS:
        if here[key] != before.get(key):
            print(f"{key}: {before.get(key)} there, {here[key]} here")


if __name__ == "__main__":
    raise SystemExit(main())
