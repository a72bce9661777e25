"""A recipe on the command line: a file or a name, with dotted overrides."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from ..config.recipe import PretrainConfig
from ..config.recipe_file import find_recipe, list_keys, read_recipe
from ..errors import UsageError
from .options import make_parser


def recipe_parser(command: str, kind: type = PretrainConfig) -> Any:
    """Reads a recipe of `kind` and its overrides."""
    from ..config.recipe_docs import keys

    parser = make_parser(command, default_env=False)
    parser.add_argument("--config", action="config", help="the recipe; also as first argument")
    parser.add_class_arguments(kind, nested_key=None, as_group=False)
    texts = {key.name: key.text for key in keys(kind)}
    for action in parser._actions:
        action.help = texts.get(action.dest, action.help)
    return parser


def run_options(parser: Any) -> None:
    """The flags of a command that trains, which are no keys of its recipe."""
    parser.add_argument("--out", type=str, default=None, help="run folder (default runs/<recipe>)")
    parser.add_argument(
        "--allow-data-reset",
        action="store_true",
        help="resume with other data, seed, length or batch: the data starts again",
    )


def with_recipe(
    args: list[str],
    kind: type = PretrainConfig,
    read: Callable[[Path, type], dict[str, Any]] = read_recipe,
) -> tuple[list[str], Path | None]:
    """Arguments with recipe files, as `read` gives them, in place of their names, and single values
    as lists."""
    if not args:
        raise UsageError("name a recipe: a YAML file, or one that `ling recipes` lists")
    if not args[0].startswith("-"):
        args = ["--config", *args]
    flags, result, path, rest = [f"--{key}" for key in list_keys(kind)], [], None, list(args)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag == "--config" and (equals or rest):
            path = find_recipe(value if equals else rest.pop(0))
            result += [flag, json.dumps(read(path, kind), default=str)]
        elif flag == "--parallel" and "auto" in (value, *rest[:1]):
            result += ["--parallel.auto", "true"]
            del rest[: not equals]
        elif flag in flags:
            values = [value] if equals else []
            while rest and not (equals or rest[0].startswith("--")):
                values.append(rest.pop(0))
            result += [flag, _as_list(flag, values)] if values else [flag]
        else:
            result.append(f"{flag}{equals}{value}")
    return result, path


_NUMBERS = (
    "--data.weights",
    "--data.epochs",
    "--data.split",
    "--train.rampup_batch_size",
    "--train.profile",
)


def _as_list(flag: str, values: list[str]) -> str:
    """`a b` as the parser takes a list; `[a, b]` and `null` are left as they are."""
    if len(values) == 1 and (values[0].startswith("[") or values[0] == "null"):
        return values[0]
    if flag in _NUMBERS:  # the rest are paths, which may look like numbers
        return f"[{', '.join(values)}]"
    return json.dumps(values)


def build_recipe(values: dict[str, Any], kind: type = PretrainConfig) -> Any:
    """The recipe of what the parser gives, without the command's own flags."""
    hints = typing.get_type_hints(kind)
    values = {key: values[key] for key in hints}
    for key, section in hints.items():
        if dataclasses.is_dataclass(section) and isinstance(values.get(key), dict):
            values[key] = cast("type[Any]", section)(**values[key])
    return kind(**values)
