"""Commands that write text: generate, chat."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..config.engine import CHAT_SAMPLING, GENERATE_SAMPLING
from ..errors import LingError, UsageError
from ..text import one_line
from .options import (
    make_parser,
    model_options,
    open_llm,
    sampling_options,
    sampling_params,
)


def generate(args: list[str]) -> None:
    parser = make_parser("generate")
    model_options(parser)
    parser.add_argument("-p", "--prompt", type=str, required=True, help="text to continue")
    sampling_options(parser, GENERATE_SAMPLING)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    ns = parser.parse_args(args)
    params = sampling_params(ns)
    llm = open_llm(ns)
    if not ns.json:
        print(ns.prompt, end="", flush=True)
        for chunk in llm.stream(ns.prompt, params):
            print(chunk.text, end="", flush=True)
        stats = llm.stats
        print(
            f"\n[{stats.generated} tokens, {stats.tokens_per_s:.1f} tokens/s{_acceptance(stats)}]",
            file=sys.stderr,
        )
        return
    output = llm.generate(ns.prompt, params)[0].outputs[0]
    report = {
        "text": output.text,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "tokens_per_s": llm.stats.tokens_per_s,
        "acceptance": llm.stats.acceptance,
    }
    print(json.dumps(report, ensure_ascii=False))


def _acceptance(stats: Any) -> str:
    return "" if stats.acceptance is None else f", {stats.acceptance:.0%} of drafts accepted"


def chat(args: list[str]) -> None:
    parser = make_parser("chat")
    model_options(parser)
    sampling_options(parser, CHAT_SAMPLING)
    parser.add_argument("--system", type=str, default=None, help="system message")
    ns = parser.parse_args(args)
    params = sampling_params(ns)
    llm = open_llm(ns)
    if llm.tokenizer is None:
        raise UsageError(f"{ns.model}: no tokenizer.json in this folder, so it cannot chat")
    head = [{"role": "system", "content": ns.system}] if ns.system else []
    messages: list[dict[str, str]] = list(head)
    # A template that cannot be used is told before the first line is typed.
    llm.render([*head, {"role": "user", "content": "hi"}])
    print("empty line or Ctrl-D ends, /new starts over")
    while True:
        try:
            line = input("you> ").strip()
        except EOFError:
            return
        if not line:
            return
        if line == "/new":
            messages = list(head)
            continue
        messages.append({"role": "user", "content": line})
        print("ling> ", end="", flush=True)
        answer = ""
        try:
            for chunk in llm.stream_chat(messages, params):
                answer += chunk.text
                print(chunk.text, end="", flush=True)
        except UsageError:
            raise
        except LingError as err:
            print(f"error: {one_line(str(err))}", file=sys.stderr)
            messages.pop()
            continue
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        print()
        messages.append({"role": "assistant", "content": answer})
