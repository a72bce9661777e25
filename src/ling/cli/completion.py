"""`ling completion`: what a shell needs to complete commands, options and names, as a script."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from ..config.recipe_file import packaged_recipes
from ..errors import UsageError
from ..hub.names import ALIASES
from ..hub.packaged import PACKAGED
from ..presets import PRESETS
from ..text import nearest
from .commands import COMMANDS
from .measure import BENCHES
from .options import ASK_FOR_PARSER, ParserAsked, make_parser
from .scaling import PARTS as SCALING_PARTS

SUBCOMMANDS = {
    "bench": list(BENCHES),
    "data": ["prepare"],
    "compat": ["megatron"],
    "scaling": list(SCALING_PARTS),
}

# Commands to which a model's name means its weights.
_WITH_WEIGHTS = ("chat", "generate", "serve", "eval", "convert", "download", "verify")


class Words(NamedTuple):
    """What may follow a command: its options, and names beside those of files."""

    options: list[str]
    names: list[str]


def completion(args: list[str]) -> None:
    parser = make_parser("completion")
    parser.add_argument("shell", type=str, help=", ".join(SCRIPTS))
    shell = parser.parse_args(args).shell
    if shell not in SCRIPTS:
        raise UsageError(
            f"completion: no script for `{shell}`{nearest(shell, list(SCRIPTS))}; "
            f"there is {', '.join(SCRIPTS)}"
        )
    print(SCRIPTS[shell](table()), end="")


def table() -> dict[str, Words]:
    """The words of each command, those of `bench` and `data` by their second word too."""
    names = {
        **{command: [*PACKAGED, *ALIASES] for command in _WITH_WEIGHTS},
        "pretrain": list(packaged_recipes("pretrain")),
        "sft": list(packaged_recipes("sft")),
        "recipes": list(packaged_recipes()),
        "inspect": list(PRESETS),
        "synth": list(PRESETS),
        "bench train": list(PRESETS),
        "scaling predict": list(PRESETS),
        "scaling sweep": list(packaged_recipes("scaling")),
        "deploy": ["vllm", "sglang"],
        "completion": list(SCRIPTS),
    }
    found = {}
    for name in COMMANDS:
        seconds = SUBCOMMANDS.get(name, [])
        if seconds:
            found[name] = Words(["--help"], seconds)
        for words in [[name, second] for second in seconds] or [[name]]:
            key = " ".join(words)
            found[key] = Words(_options(words), names.get(key, []))
    return found


def _options(words: list[str]) -> list[str]:
    """The options that the parser of a command has."""
    command = COMMANDS[words[0]]
    run = getattr(import_module(f".{command.file}", __package__), command.function)
    try:
        run([*words[1:], ASK_FOR_PARSER])
    except ParserAsked as asked:
        return [flag for action in asked.parser._actions for flag in action.option_strings]
    raise AssertionError(f"`{' '.join(words)}` parsed nothing")


def _bash(found: dict[str, Words]) -> str:
    seconds = "|".join(SUBCOMMANDS)
    cases = "\n".join(
        f"    '{key}') options='{' '.join(w.options)}' names='{' '.join(w.names)}' ;;"
        for key, w in found.items()
    )
    # Without a match bash continues with the names of files (`-o default`).
    return f"""_ling() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} key=${{COMP_WORDS[1]}} options= names=
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{" ".join(COMMANDS)} --help --version' -- "$cur"))
    return
  fi
  case $key in
    {seconds}) [ "$COMP_CWORD" -gt 2 ] && key="$key ${{COMP_WORDS[2]}}" ;;
  esac
  case $key in
{cases}
  esac
  case $cur in
    -*) COMPREPLY=($(compgen -W "$options" -- "$cur")) ;;
    *) COMPREPLY=($(compgen -W "$names" -- "$cur")) ;;
  esac
}}
complete -o default -F _ling ling
"""


def _zsh(found: dict[str, Words]) -> str:
    return f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{_bash(found)}"


def _fish(found: dict[str, Words]) -> str:
    lines = [
        f"complete -c ling -n __fish_use_subcommand -f -a {name} -d {_quoted(command.summary)}"
        for name, command in COMMANDS.items()
    ]
    for key, words in found.items():
        first, _, second = key.partition(" ")
        seen = [f"__fish_seen_subcommand_from {word}" for word in (first, second) if word]
        if first in SUBCOMMANDS and not second:
            seen.append(f"not __fish_seen_subcommand_from {' '.join(SUBCOMMANDS[first])}")
        start = f"complete -c ling -n {_quoted('; and '.join(seen))}"
        for flag in words.options:
            lines.append(f"{start} {'-l' if flag.startswith('--') else '-s'} {flag.lstrip('-')}")
        if words.names:
            lines.append(f"{start} -a {_quoted(' '.join(words.names))}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS: dict[str, Callable[[dict[str, Words]], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
