"""Commands that write text: generate, chat."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from ..errors import LingError, UsageError
from ..text import one_line
from .conversation import Conversation
from .options import (
    given_sampling,
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
    sampling_options(parser, "generate")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    ns = parser.parse_args(args)
    given = given_sampling(ns)
    llm = open_llm(ns)
    params = sampling_params(llm, "generate", given)
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
    print(json.dumps(report))


def _acceptance(stats: Any) -> str:
    return "" if stats.acceptance is None else f", {stats.acceptance:.0%} of drafts accepted"


def chat(args: list[str]) -> None:
    parser = make_parser("chat")
    model_options(parser)
    sampling_options(parser, "chat")
    parser.add_argument("--system", type=str, default=None, help="system message")
    ns = parser.parse_args(args)
    if sys.stdin is None:  # as Python has it where the shell closed it
        raise UsageError("chat: there is no input to read; `ling generate` takes a `--prompt`")
    given = given_sampling(ns)
    llm = open_llm(ns)
    if llm.tokenizer is None:
        raise UsageError(
            f"{ns.model}: it cannot chat without a tokenizer: a folder has it in tokenizer.json, "
            "a GGUF file in its metadata, a run beside its checkpoints"
        )
    params = sampling_params(llm, "chat", given)
    # A template that cannot be used is reported before the first line is typed.
    llm.render([{"role": "user", "content": "hi"}])
    with contextlib.suppress(ImportError):  # not in every Python
        import readline  # noqa: F401  # `input` then edits lines and remembers them
    print("empty line or Ctrl-D ends, /new starts over")
    _converse(llm, params, Conversation(ns.system))


def _converse(llm: Any, params: Any, conversation: Conversation) -> None:
    while True:
        try:
            line = input("you> ").strip()
        except EOFError:
            return
        if not line:
            return
        if line == "/new":
            conversation.clear()
            continue
        conversation.add("user", line)
        _answer(llm, params, conversation)


def _answer(llm: Any, params: Any, conversation: Conversation) -> None:
    """Print the answer to the last turn and remember it; a turn without one is forgotten."""
    answer = ""
    try:
        if dropped := conversation.fit(llm, params.max_tokens):
            print(
                f"[the context of {llm.max_model_len} tokens is full: "
                f"the oldest {2 * dropped} turns are forgotten]"
            )
        print("ling> ", end="", flush=True)
        for chunk in llm.stream_chat(conversation.messages, params):
            answer += chunk.text
            print(chunk.text, end="", flush=True)
    except UsageError:
        raise
    except LingError as err:
        print(f"error: {one_line(str(err))}", file=sys.stderr)
        conversation.turns.pop()
        return
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    print()
    conversation.add("assistant", answer)
