"""How well a model keeps to held-out conversations of `ling quickstart --sft`.

    python benchmarks/sft_demo.py quickstart/model quickstart/sft/valid.jsonl
    python benchmarks/sft_demo.py quickstart/sft/run/model quickstart/sft/valid.jsonl --json

Greedy answers of a tool loop of two turns: the call, then words to its result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ling.data.conversations.home import NAME
from ling.eval.tool_talk import measure
from ling.llm import LLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a model folder, or a run")
    parser.add_argument("records", type=Path, help="held-out records")
    parser.add_argument("--json", action="store_true", help="print all, conversations too")
    args = parser.parse_args()
    with LLM(args.model) as llm:
        records = [json.loads(line) for line in args.records.read_text("utf-8").splitlines()]
        score = measure(llm, records, NAME).as_dict()
    if args.json:
        print(json.dumps(score))
        return
    talks, introductions = score.pop("talks"), score.pop("introductions")
    for name, value in score.items():
        print(f"{name:14} {value if name == 'prompts' else f'{value:.0%}'}")
    for talk in talks[:3]:
        print(f"\n{talk['asked']}\n{talk['said']}\n{talk['answer']}")
    for talk in introductions[:3]:
        print(f"\n{talk['asked']}\n{talk['said']}")


if __name__ == "__main__":
    main()
