"""Take over a measured card of `ling-nano`: its JSON, pictures and page into this repository.

    ling nano OUT --stage card
    python benchmarks/nano_page.py OUT/card [--wsm WSM]

Writes benchmarks/results/DATE-ling-nano.json, and docs/evidence/ling-nano.md with its pictures,
made again of that JSON. WSM is the folder of `benchmarks/wsm.py`: its numbers and picture become a
section of the page; without it those of the last card stay, as of an earlier run. Without
arguments the page is made again of the newest committed JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from ling.nano.page import page
from ling.nano.pictures import WSM, draw

ROOT = Path(__file__).parents[1]
RESULTS, EVIDENCE = ROOT / "benchmarks" / "results", ROOT / "docs" / "evidence"


def newest() -> dict[str, Any]:
    """The last card that was taken over; empty before there is one."""
    found = sorted(RESULTS.glob("*-ling-nano.json"))
    return json.loads(found[-1].read_text("utf-8")) if found else {}


def main() -> None:
    """Copy, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("card", type=Path, nargs="?", help="OUT/card")
    parser.add_argument("--wsm", type=Path, help="OUT of benchmarks/wsm.py")
    args = parser.parse_args()
    last = newest()
    if args.card is None and not last:
        raise SystemExit(f"error: {RESULTS}: no card here; give the folder of one (OUT/card)")
    card = json.loads((args.card / "card.json").read_text()) if args.card else last
    if card is not last and "wsm" in last:
        of_another = {} if card["weights"] == last["weights"] else {"run_date": last["date"]}
        card["wsm"] = of_another | last["wsm"]
    if args.wsm is not None:
        card["wsm"] = json.loads((args.wsm / "wsm.json").read_text("utf-8"))
        shutil.copy(args.wsm / "wsm.png", EVIDENCE / WSM)
    path = RESULTS / f"{card['date']}-ling-nano.json"
    path.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draw(card, EVIDENCE)
    (EVIDENCE / "ling-nano.md").write_text(page(card, f"../../{path.relative_to(ROOT)}"), "utf-8")
    print(f"{path}\n{EVIDENCE / 'ling-nano.md'}")


if __name__ == "__main__":
    main()
