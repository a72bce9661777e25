"""`ling compat`: trainings of other programs as recipes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..text import one_line
from .options import make_parser

if TYPE_CHECKING:
    from ..compat.commands import Note
    from ..compat.megatron import Translation

_USAGE = "compat: expected `ling compat megatron SCRIPT.sh [MORE.sh ...] [-o RECIPE.yaml]`"


def compat(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print("usage: ling compat megatron SCRIPT.sh [MORE.sh ...] [-o RECIPE.yaml]\n")
        print("  megatron    a launch script of Megatron-LM, read and never run, as a recipe\n")
        print("`ling compat megatron --help` lists the options.")
        return
    if not args or args[0] != "megatron":
        raise UsageError(_USAGE)
    _megatron(args[1:])


def _megatron(args: list[str]) -> None:
    parser = make_parser("compat megatron")
    parser.add_argument(
        "scripts", nargs="+", help="launch script; several are read in turn, as if sourced"
    )
    parser.add_argument(
        "-o", "--output", type=str, default=None, help="recipe to write (default: print it)"
    )
    ns = parser.parse_args(args)
    from ..compat.megatron import translate
    from ..files.atomic import write_atomic

    if ns.output is not None and Path(ns.output).exists():
        raise UsageError(f"{ns.output} exists; choose another name for `-o`")
    notes: list[Note] = []
    try:
        translation = translate(ns.scripts, notes)
    finally:  # an error may follow from what a note says
        for note in dict.fromkeys(notes):
            print(one_line(f"{note.where}: {note.text}"), file=sys.stderr)
    text = _yaml(translation, ns.scripts)
    if ns.output is None:
        print(text, end="")
        return
    write_atomic(Path(ns.output), text)
    print(f"recipe: {ns.output}")
    if not translation.sft:
        print(f"next: ling pretrain {shlex.quote(ns.output)}")


def _yaml(translation: Translation, scripts: list[str]) -> str:
    """The recipe with a head that says where it is from."""
    import yaml

    names = ", ".join(Path(script).name for script in scripts)
    head = one_line(f"# From {names}, by `ling compat megatron`.") + "\n"
    if translation.sft:
        head += "# Fine-tuning: put these values into a recipe of `ling sft`, such as that which\n"
        head += "# `ling recipes ling-mini-sft-megatron` prints.\n"
    return head + yaml.safe_dump(translation.tree, sort_keys=False, allow_unicode=True)
