"""The command that continues a prompt."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..text import terminal_text
from .options import (
    given_sampling,
    make_parser,
    model_options,
    only_adapter,
    open_llm,
    sampling_options,
    sampling_params,
)


def generate(args: list[str]) -> None:
    parser = make_parser("generate")
    model_options(parser)
    parser.add_argument("-p", "--prompt", type=str, required=True, help="text to continue")
    sampling_options(parser, "generate")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    ns = parser.parse_args(args)
    given, adapter = given_sampling(ns), only_adapter(ns)
    llm = open_llm(ns)
    params = sampling_params(llm, "generate", given)
    if not ns.json:
        is_terminal = sys.stdout.isatty()
        print(ns.prompt, end="", flush=True)
        for chunk in llm.stream(ns.prompt, params, lora=adapter):
            # A pipe gets the text as it is, a terminal what cannot act on it.
            print(terminal_text(chunk.text) if is_terminal else chunk.text, end="", flush=True)
        stats = llm.stats
        print(
            f"\n[{stats.generated} tokens, {stats.tokens_per_s:.1f} tokens/s{_acceptance(stats)}]",
            file=sys.stderr,
        )
        return
    output = llm.generate(ns.prompt, params, lora=adapter)[0].outputs[0]
    report = {
        "text": output.text,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "tokens_per_s": llm.stats.tokens_per_s,
        "acceptance": llm.stats.acceptance,
    }
    print(json.dumps(report))


def _acceptance(stats: Any) -> str:
    return "" if stats.acceptance is None else f", {stats.acceptance:.0%} of drafts accepted"
