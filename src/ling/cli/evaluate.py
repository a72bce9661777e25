"""`ling eval`: models by tasks."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from pathlib import Path

from ..config.engine import EngineConfig, flags
from ..errors import UsageError
from .options import (
    add_flags,
    at_least_one,
    config_from,
    make_parser,
    naming_flags,
    say,
    use_threads,
)


def evaluate(args: list[str]) -> int:
    if args[:1] == ["needle"]:
        from .needle import needle

        return needle(args[1:])
    ns = _parsed(args)
    use_threads(ns.threads)
    from ..eval import evaluate as run
    from ..eval.results import words
    from ..eval.scorers.choose import ScorerOptions, Subject
    from ..eval.tasks.named import tasks_named
    from ..eval.tasks.task import TaskOptions

    options = TaskOptions(
        data=tuple(ns.data),
        limit=ns.limit,
        num_fewshot=ns.num_fewshot,
        chat=ns.chat,
        run_code=ns.run_code,
        seq_length=ns.seq_length,
    )
    with naming_flags(
        "max_memory", "cache_dir_size", "lora", "format", "kv_cache_dtype", "max_model_len"
    ):
        scorers = ScorerOptions(
            scorer=ns.scorer,
            engine=config_from(ns, EngineConfig),
            served_model=ns.served_model,
            tokenizer=ns.tokenizer,
            timeout_s=ns.timeout,
        )
        found = run.evaluate(
            [Subject(model, scorers) for model in dict.fromkeys(ns.model)],
            tasks_named(ns.tasks, options),
            Path(ns.out) if ns.out else None,
            lambda text: print(text, file=sys.stderr, flush=True),
        )
    if len(found.results) == 1:
        (only,) = found.results
        say(only.outcome.metrics, ns.json, words(only.outcome))
    else:
        say([r.as_dict() for r in found.results], ns.json, "\n".join(found.table))
    return 0


def _parsed(args: list[str]) -> Namespace:
    """The options; raises `UsageError` for a value that none can have."""
    parser = make_parser("eval")
    add = parser.add_argument
    add("model", type=str, nargs="+", help="model folders, hub names, or URLs of servers")
    add("--tasks", type=str, default="ppl", help="a list such as ppl,bpb,gsm8k,hmmt")
    add("--data", type=str, nargs="+", required=True, help="folder of the tasks' data; text files")
    add("--out", type=str, default=None, help="folder of the results; run again to continue")
    add("--limit", type=int, default=None, help="questions of a task, or rows of ppl, at most")
    add("--num-fewshot", type=int, default=None, help="examples before each question")
    add("--chat", action="store_true", help="ask in the model's chat template")
    add("--run-code", action="store_true", help="run what the model writes, in a sandbox")
    add("--scorer", type=str, default="ling", help="ling or transformers; a URL is asked itself")
    add("--served-model", type=str, default=None, help="model of a server (default: its first)")
    add("--tokenizer", type=str, default=None, help="for a server: tokenizer folder or model name")
    add("--timeout", type=float, default=600.0, help="seconds that a server may take to answer")
    add(
        "--seq-length",
        type=int,
        default=None,
        help="tokens per row of ppl (default: the model's, at most 1024)",
    )
    add_flags(parser, flags(EngineConfig, "compute"))
    add("--threads", type=int, default=None, help="CPU threads")
    add_flags(parser, flags(EngineConfig, "memory"))
    add("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    for name in ("limit", "seq_length"):
        at_least_one(name, getattr(ns, name))
    if ns.num_fewshot is not None and ns.num_fewshot < 0:
        raise UsageError(f"`--num-fewshot` is {ns.num_fewshot}, expected 0 or more")
    if not 0 < ns.timeout < math.inf:
        raise UsageError(f"`--timeout` is {ns.timeout}, expected more than 0 seconds")
    for name in ("served_model", "tokenizer"):
        if getattr(ns, name) and not any(m.startswith(("http://", "https://")) for m in ns.model):
            raise UsageError(f"`--{name.replace('_', '-')}` is for the URL of a server")
    return ns
