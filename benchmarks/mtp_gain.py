"""What drafts bring on a trained model, at the acceptance that it really has.

    python benchmarks/mtp_gain.py MODEL_FOLDER PREFIX [--speculative mtp] [--num-drafts N]
        [--format int4] [--temperature 0] [--prompts 12] [--prompt-tokens 64] [--tokens 128]
        [--cpu-time]

PREFIX is a Megatron .bin/.idx of held-out tokens, which give the prompts. Two engines, with and
without drafts, continue each prompt in turn; both give the same tokens. With `--num-drafts` every
step drafts this many; without it, the engine drafts what pays, as it does when it serves.
`--cpu-time` (with one thread) leaves out what other programs take. Prints one
JSON object: the ratio of their speeds with its 95% interval, acceptance, tokens a step, what a
step costs beside a plain one, and how many different experts a layer reads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ling.eval.draft_gain import Drafts, beginnings, draft_gain


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prefix")
    parser.add_argument("--speculative", default="mtp")
    parser.add_argument("--num-drafts", type=int, default=None)
    parser.add_argument("--format", default=None)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    drafts = Drafts(
        speculative=args.speculative,
        num_drafts=args.num_drafts,
        format=args.format,
        temperature=args.temperature,
        tokens=args.tokens,
        cpu_time=args.cpu_time,
    )
    prompts = list(beginnings(args.prefix, args.prompts, args.prompt_tokens))
    print(json.dumps(draft_gain(args.model, prompts, drafts)))


if __name__ == "__main__":
    main()
