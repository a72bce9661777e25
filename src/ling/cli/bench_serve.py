"""`ling bench serve`: the options of load on a running server."""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

from ..errors import UsageError
from ..text import shown
from .options import make_parser, naming_flags, say

# What a request is sampled with where its flag is given; names are those of vLLM.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_NAMES = (
    *("model", "backend", "dataset_name", "num_prompts", "random_input_len", "random_output_len"),
    *("random_range_ratio", "random_prefix_len", "random_vocab_size", "num_turns", "burstiness"),
    *("stop_at_eos", "seed", "pairs", "num_warmups", "background_input_len", "probe", "timeout_s"),
)
_LISTS = ("request_rate", "max_concurrency")
_OTHERS = ("api_key", "against", "against_url")


def bench_serve(args: list[str]) -> None:
    """Measure a running server, alone or in turn with another."""
    ns = _parser().parse_args(args)
    from ..eval.serving.bench import Servers
    from ..eval.serving.bench import bench_serve as run
    from ..eval.serving.requests import LoadOptions

    with naming_flags(*_NAMES, *_LISTS, *_OTHERS):
        options = LoadOptions(
            **{name: getattr(ns, name) for name in _NAMES},
            request_rate=[_rate(text) for text in ns.request_rate],
            max_concurrency=ns.max_concurrency or [None],
            sampling={n: v for n in _SAMPLING if (v := getattr(ns, n)) is not None},
            extra_body=_extra_body(ns.extra_body),
        )
        servers = Servers(
            url=ns.url,
            api_key=ns.api_key or os.environ.get("OPENAI_API_KEY"),
            against=ns.against,
            against_url=ns.against_url,
            start_timeout_s=ns.start_timeout_s,
        )
        report = run(
            servers, options, png=ns.png, log=lambda text: print(text, file=sys.stderr, flush=True)
        )
    say({k: v for k, v in report.items() if k != "line"}, ns.json, report["line"])


def _parser() -> Any:
    parser = make_parser("bench serve")
    add = parser.add_argument
    add("url", type=str, help="a running server, such as http://127.0.0.1:8000")
    add("--model", type=str, default=None, help="its name (default: the first of the server)")
    add("--backend", type=str, default="openai", help="openai: completions, openai-chat: chat")
    add("--dataset-name", type=str, default="random", help="random, or multi-turn: growing chats")
    add("--num-prompts", type=int, default=32, help="requests (or chats) of a measurement")
    add("--random-input-len", type=int, default=300, help="tokens of a prompt, or of a turn's")
    add("--random-output-len", type=int, default=100, help="tokens of an answer")
    add("--random-range-ratio", type=float, default=0.0, help="lengths vary by this share")
    add("--random-prefix-len", type=int, default=0, help="more tokens, shared by all prompts")
    add("--random-vocab-size", type=int, default=None, help="send token ids below this, not text")
    add("--num-turns", type=int, default=4, help="requests of a multi-turn chat")
    add("--request-rate", type=str, nargs="+", default=["inf"], help="requests/s, or inf: a sweep")
    add(
        "--burstiness", type=float, default=1.0, help="1 is a Poisson process, less comes in bursts"
    )
    add("--max-concurrency", type=int, nargs="+", default=None, help="requests at once: a sweep")
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    add("--top-p", type=float, default=None, help="sent where it is given, as are those below")
    add("--top-k", type=int, default=None)
    add("--min-p", type=float, default=None)
    add("--repetition-penalty", type=float, default=None)
    add("--stop-at-eos", action="store_true", help="let answers end before their length")
    add("--extra-body", type=str, default="{}", help='more fields, such as {"logprobs": 20}')
    add("--seed", type=int, default=0, help="the same seed sends the same requests")
    add("--pairs", type=int, default=1, help="measurements of each point, in turn with --against")
    add("--num-warmups", type=int, default=1, help="requests before the measured ones")
    add(
        "--background-input-len",
        type=int,
        default=None,
        help="one more client sends prompts of this length all the time",
    )
    add("--probe", action="store_true", help="also time /health and /tokenize meanwhile")
    add("--against", type=str, default=None, help="a command with {port}: starts another server")
    add("--against-url", type=str, default=None, help="where that answers, if not at {port}")
    add("--start-timeout-s", type=float, default=600.0, help="how long that may take to start")
    add("--timeout-s", type=float, default=600.0, help="how long a server may send nothing")
    add("--api-key", type=str, default=None, help="or the variable OPENAI_API_KEY")
    add("--png", type=str, default=None, help="write a picture (extra `plot`)")
    add("--json", action="store_true", help="print only JSON")
    return parser


def _rate(text: str) -> float:
    try:
        return math.inf if text == "inf" else float(text)
    except ValueError:
        raise UsageError(f"`request_rate` is {shown(text)}, expected a number or inf") from None


def _extra_body(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"`--extra-body` is {shown(text)}, expected a JSON object")
    return value
