"""Commands that measure: bench, doctor."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..config.engine import DEFAULTS, EngineConfig
from ..errors import UsageError
from ..text import nearest, shown
from .options import (
    at_least_one,
    config_from,
    engine_flag,
    make_parser,
    naming_flags,
    say,
    use_threads,
)

BENCHES = {
    "train": "training steps, against the same trainer with a loop over experts",
    "decode": "tokens per second of one request, against the memory's speed and llama.cpp",
    "prefill": "tokens per second of reading a prompt",
    "batch": "tokens per second of many requests at once",
    "start": "seconds from starting Python to the first token",
    "serve": "a running server under load, in turn with another one",
}


def bench(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print("usage: ling bench KIND [MODEL | URL] [options]\n")
        print("\n".join(f"  {kind:10} {text}" for kind, text in BENCHES.items()))
        print("\n`ling bench KIND --help` lists the options.")
        return
    if not args or args[0] not in BENCHES:
        kind = shown(args[0]) if args else "nothing"
        hint = nearest(args[0], list(BENCHES)) if args else ""
        raise UsageError(f"bench: expected `ling bench {'|'.join(BENCHES)}`, got {kind}{hint}")
    if args[0] == "serve":
        from .bench_serve import bench_serve

        return bench_serve(args[1:])
    (_bench_train if args[0] == "train" else _bench_inference)(args[0], args[1:])


def _bench_train(kind: str, args: list[str]) -> None:
    parser = make_parser("bench train")
    parser.add_argument("model", type=str, nargs="?", default="ling-nano", help="preset")
    parser.add_argument("--pairs", type=int, default=3, help="measured pairs")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    ns = parser.parse_args(args)
    at_least_one("pairs", ns.pairs)
    from ..eval import bench

    _report(bench.train(ns.model, ns.pairs), ns.json)


def _bench_inference(kind: str, args: list[str]) -> None:
    parser = make_parser(f"bench {kind}")
    parser.add_argument(
        "model", type=str, nargs="?", default="ling-nano", help="model folder, or a preset"
    )
    engine_flag(parser, "device")
    engine_flag(parser, "format", help="{formats}")
    parser.add_argument("--context", type=int, default=0, help="tokens before the measured ones")
    parser.add_argument(
        "--tokens", type=int, default=None, help="tokens measured (64; prefill 512)"
    )
    parser.add_argument("--batch", type=int, default=None, help="requests at once (`batch`: 16)")
    parser.add_argument(
        "--pairs", type=int, default=5, help="measurements, in turn with the peer's"
    )
    engine_flag(parser, "speculative")
    parser.add_argument(
        "--num-drafts", type=int, default=None, help="always draft this many; default: what pays"
    )
    parser.add_argument(
        "--acceptance", type=float, default=None, help="keep drafts by a seeded coin of this chance"
    )
    parser.add_argument("--against", type=str, default=None, help="llama.cpp, or plain: no drafts")
    parser.add_argument(
        "--peer-types", type=str, nargs="+", default=None, help="q4_0, q4_k_m, q8_0"
    )
    parser.add_argument(
        "--peer-settings", type=str, default="", help='only these, such as "flash=on repack=on"'
    )
    parser.add_argument(
        "--peer-python", type=str, default=None, help="interpreter that has llama-cpp-python"
    )
    engine_flag(parser, "kv_cache_dtype")
    parser.add_argument("--cache", type=str, default=None, help="folder for random weights")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--profile", action="store_true", help="time per kernel")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    ns = parser.parse_args(args)
    from ..eval import bench_infer

    use_threads(ns.threads)
    adaptive = ns.num_drafts is None
    ns.num_drafts = DEFAULTS.num_drafts if adaptive else ns.num_drafts
    with naming_flags("context", "tokens", "batch", "pairs", "against", "peer_settings"):
        options = bench_infer.BenchOptions(
            kind=kind,
            context=ns.context,
            tokens=ns.tokens or (512 if kind == "prefill" else 64),
            batch=ns.batch or (16 if kind == "batch" else 1),
            pairs=ns.pairs,
            acceptance=ns.acceptance,
            adaptive=adaptive,
            engine=config_from(ns, EngineConfig),
        )
        report = bench_infer.bench(
            ns.model,
            options,
            against=ns.against,
            peer_types=ns.peer_types,
            peer_settings=ns.peer_settings,
            peer_python=ns.peer_python,
            cache=ns.cache,
            log=lambda text: print(text, file=sys.stderr),
        )
    _report(report, ns.json)
    if ns.profile and not ns.json:
        from ..eval.roofline import stage_lines

        print("\n".join(stage_lines(report)))


def _report(report: dict[str, Any], only_json: bool) -> None:
    say({k: v for k, v in report.items() if k != "line"}, only_json, report["line"])


def doctor(args: list[str]) -> None:
    parser = make_parser("doctor")
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    from ..ops import doctor

    if ns.json:
        print(json.dumps(doctor.facts()))
    else:
        print("\n".join(f"{name:<14} {text}" for name, text in doctor.doctor().items()))
