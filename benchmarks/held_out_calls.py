"""Which held-out calls of tools a small model gets right, by what of them was never trained on.

    python benchmarks/held_out_calls.py [MODEL] [--records 300] [--seed 2] [--strict]

MODEL is a folder or a packaged model (default: ling-nano). A call is of a *new name* where the
tool's name is in no training record, else of a *new wording* where the question's is, else *known*.
--seed draws other questions than the card's. With --strict a grammar keeps calls to the tools that
are offered.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from typing import Any

from ling.eval.turns import measure_turns
from ling.llm import LLM
from ling.nano.dialogues import records
from ling.nano.dialogues.offered import HELD_OUT_NAMES


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", default="ling-nano")
    parser.add_argument("--records", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2, help="2: the card's questions")
    parser.add_argument("--strict", action="store_true")
    args = parser.parse_args()
    asked = itertools.islice(filter(_has_call, records("held_out", args.seed)), args.records)
    with LLM(args.model) as llm:
        found = measure_turns(llm, asked, strict=args.strict)
    right: dict[str, list[bool]] = defaultdict(list)
    for turn in (turn for turn in found.turns if turn.calls):
        (call,) = json.loads(turn.wanted)
        is_named_new = call["name"] in HELD_OUT_NAMES
        about = "new name" if is_named_new else "new wording" if turn.new else "known"
        right[f"right tool, {about}"].append(turn.chosen)
        if turn.chosen:
            kind = "free" if turn.free else "listed"
            right[f"exact arguments of the right tool, {kind}"].append(turn.exact)
    for what, counts in sorted(right.items()):
        print(f"{what}: {sum(counts) / len(counts):.0%} of {len(counts)}")


def _has_call(record: dict[str, Any]) -> bool:
    return any(message.get("tool_calls") for message in record["messages"])


if __name__ == "__main__":
    main()
