"""Commands that train: quickstart, pretrain, recipes, data, merge."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import make_parser, say
from .recipe_args import build_recipe, recipe_parser, run_options, with_recipe

if TYPE_CHECKING:
    from ..data.prepared import Prepared


def pretrain(args: list[str]) -> int:
    from ..config.recipe import recipe_yaml

    parser = _pretrain_parser()
    args, recipe_path = with_recipe(args)
    # The parser's own flag would print this command's flags too, which are no keys of a recipe.
    only_print = "--print-config" in args
    parsed = parser.parse_args([a for a in args if a != "--print-config"])
    out = Path(parsed.out or f"runs/{recipe_path.stem if recipe_path else 'pretrain'}")
    recipe = build_recipe(vars(parser.instantiate(parsed)))
    if only_print:
        print(recipe_yaml(recipe), end="")
        return 0
    from ..train.loop import run
    from ..train.parallel.group import leads

    code = run(recipe, out, allow_data_reset=parsed.allow_data_reset)
    if code == 0 and leads():
        print(f"next: {_next_command(out)}")
    return code


def _pretrain_parser() -> Any:
    """Reads a recipe, its overrides, and the flags of `pretrain` that are no keys of one."""
    parser = recipe_parser("pretrain RECIPE")
    run_options(parser)
    return parser


def _next_command(out: Path) -> str:
    """What to do with a finished run; without a tokenizer there is no text to continue."""
    run = shlex.quote(str(out))
    if (out / "tokenizer" / "tokenizer.json").is_file():
        return f'ling generate {run} -p "..." (or `ling convert {run} OUT`)'
    return f"ling convert {run} OUT --tokenizer FOLDER"


def recipes(args: list[str]) -> None:
    parser = make_parser("recipes")
    parser.add_argument("name", type=str, nargs="?", default=None, help="print this recipe")
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    from ..config.recipe_file import about, command_of, find_recipe, packaged_recipes

    if ns.name is not None:
        print(find_recipe(ns.name).read_text("utf-8"), end="")
        return
    report = {
        name: {"path": str(path), "command": command_of(path), "about": about(path)}
        for name, path in packaged_recipes().items()
    }
    width = max(map(len, report))
    lines = []
    for command in dict.fromkeys(entry["command"] for entry in report.values()):
        lines.append(f"`ling {command} NAME`:")
        lines += [
            f"  {name:<{width}}  {entry['about']}"
            for name, entry in report.items()
            if entry["command"] == command
        ]
    hint = "`ling recipes NAME` prints one; options behind the name change its keys"
    say(report, ns.json, "\n".join([*lines, hint]))


def _recipe_at(name: str) -> Any:
    """The recipe of that name or path."""
    parser = _pretrain_parser()
    args, _ = with_recipe(["--config", name])
    return build_recipe(vars(parser.instantiate(parser.parse_args(args))))


def data(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print("usage: ling data prepare SOURCE... --out DIR [options]")
        print("       ling data join DIR")
        print("       ling data check FILE... [options]")
        print("       ling data fetch NAME... [--out DIR] | --list\n")
        print("  prepare     text, JSON, parquet or source code to a tokenizer and token files")
        print("  join        the parts that `prepare --shard i/n` left to token files")
        print("  check       conversations: what of each fine-tuning trains, and what is wrong")
        print("  fetch       public packages of text, by name, as files that the others read\n")
        print("`ling data prepare --help` lists the options.")
        return
    from .data_check import data_check
    from .data_fetch import data_fetch

    commands = {
        "prepare": _data_prepare,
        "join": _data_join,
        "check": data_check,
        "fetch": data_fetch,
    }
    if not args or args[0] not in commands:
        raise UsageError(
            "data: expected `ling data prepare SOURCE... --out DIR`, `ling data join DIR`, "
            "`ling data check FILE...` or `ling data fetch NAME...`"
        )
    commands[args[0]](args[1:])


def _data_prepare(args: list[str]) -> None:
    parser = make_parser("data prepare")
    parser.add_argument(
        "sources",
        nargs="+",
        help="`stdlib`, or jsonl files, text files, folders, hf://datasets/ORG/NAME",
    )
    parser.add_argument(
        "--out", type=str, required=True, help="folder for tokenizer and token files"
    )
    parser.add_argument(
        "--tokenizer",
        type=str,
        default=None,
        help="use this tokenizer: a folder or a model's name on a hub",
    )
    parser.add_argument("--vocab-size", type=int, default=4096, help="size of a new tokenizer")
    parser.add_argument("--max-bytes", type=int, default=None, help="take about this much text")
    parser.add_argument(
        "--valid-fraction", type=float, default=0.02, help="share of files held out"
    )
    parser.add_argument(
        "--json-key", type=str, default=None, help="key or column of the text (default: text, ...)"
    )
    parser.add_argument(
        "--dedupe",
        choices=["exact", "near"],
        default=None,
        help="drop documents of the same text, or also of nearly the same",
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="processes (default: one on each core)"
    )
    parser.add_argument(
        "--shard", type=str, default=None, help="`i/n`: job i of 0 to n-1; then `ling data join`"
    )
    parser.add_argument(
        "--ray", action="store_true", help="work on a Ray cluster (pip install 'ling[ray]')"
    )
    ns = parser.parse_args(args)
    if ns.ray and ns.shard is not None:
        raise UsageError("give either `--ray` or `--shard`, not both")
    from ..data.prepare import Preparation
    from ..hub import resolve_tokenizer
    from ..hub.datasets import local_source

    preparation = Preparation(
        "stdlib" if ns.sources == ["stdlib"] else [local_source(s) for s in ns.sources],
        ns.out,
        tokenizer=ns.tokenizer and resolve_tokenizer(ns.tokenizer),
        vocab_size=ns.vocab_size,
        max_bytes=ns.max_bytes,
        valid_fraction=ns.valid_fraction,
        json_key=ns.json_key,
        dedupe=ns.dedupe,
        workers=ns.workers,
    )
    if ns.shard is not None:
        ready = preparation.run_shard(*_shard(ns.shard))
    else:
        ready = preparation.run("ray" if ns.ray else "processes")
    if ready:
        _say_prefixes(ready)
    else:
        print(f"next, when all shards have ended: ling data join {shlex.quote(ns.out)}")


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(count)):
        raise UsageError(f"`--shard` is `{text}`, expected `i/n`, such as 0/8 to 7/8")
    return int(index), int(count)


def _data_join(args: list[str]) -> None:
    parser = make_parser("data join")
    parser.add_argument("out", type=str, help="folder that `data prepare --shard` wrote to")
    ns = parser.parse_args(args)
    from ..data.prepare import join_parts

    _say_prefixes(join_parts(ns.out))


def _say_prefixes(ready: Prepared) -> None:
    print(
        f"prefixes: {ready.train_prefix} {ready.valid_prefix}, tokenizer: {ready.tokenizer_folder}"
    )


def merge(args: list[str]) -> None:
    parser = make_parser("merge")
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("out", type=str, help="folder for the merged checkpoint")
    parser.add_argument(
        "--last", type=int, default=None, help="how many checkpoints; or give `--decay-steps`"
    )
    parser.add_argument(
        "--schedule",
        type=str,
        default="mean",
        help="mean, linear, cosine, one-minus-sqrt, exponential",
    )
    parser.add_argument(
        "--decay-steps",
        type=int,
        default=None,
        help="act like a decay by `--schedule` over the last N steps",
    )
    parser.add_argument(
        "--like", type=str, default=None, help="act like the learning rates of this recipe"
    )
    ns = parser.parse_args(args)
    from ..train.merge import merge

    like = None if ns.like is None else _recipe_at(ns.like)
    names = merge(
        ns.run,
        ns.out,
        last=ns.last,
        schedule=ns.schedule,
        decay_steps=ns.decay_steps,
        like=like,
    )
    print(f"merged {', '.join(names)} into {ns.out}")


def quickstart(args: list[str]) -> int:
    parser = make_parser("quickstart")
    parser.add_argument(
        "--out", type=str, default="quickstart", help="folder for everything it makes"
    )
    parser.add_argument("--minutes", type=float, default=4.0, help="training time to aim for")
    parser.add_argument(
        "--sft",
        action="store_true",
        help="then fine-tune the model on conversations with tools, and measure before and after",
    )
    ns = parser.parse_args(args)
    from ..quickstart import quickstart

    if ns.sft and (Path(ns.out) / "model" / "config.json").is_file():
        code = 0  # of the quickstart that was before
    else:
        code = quickstart(ns.out, ns.minutes)
    if code or not ns.sft:
        return code
    from ..quickstart_sft import quickstart_sft

    return quickstart_sft(ns.out)
