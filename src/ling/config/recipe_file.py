"""Recipe files: those of the package by name, others by path, read and checked key by key."""

from __future__ import annotations

import dataclasses
import os
import typing
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..text import as_json, nearest
from .recipe import PretrainConfig
from .sft import SFTConfig

# The command that each kind of recipe is for, and keys that only such recipes have.
COMMANDS: dict[type, str] = {PretrainConfig: "pretrain", SFTConfig: "sft"}
_MARKS: dict[type, tuple[str, ...]] = {
    PretrainConfig: ("data.prefix", "data.corpus"),
    SFTConfig: ("data.files", "data.dataset_info", "method", "objective", "lora", "dpo"),
}
# What every grid of a sweep has, and no recipe.
_OF_GRIDS = "budgets"

FOLDER = Path(__file__).parents[1] / "recipes"


def packaged_recipes(command: str = "") -> dict[str, Path]:
    """Recipes that come with the package, by name; those of one command, or all."""
    return {path.stem: path for path in sorted((FOLDER / command).rglob("*.yaml"))}


def command_of(path: Path) -> str:
    """The command that a recipe of the package is for."""
    folder = path.relative_to(FOLDER).parts[0]
    return {"scaling": "scaling sweep"}.get(folder, folder)


def about(path: Path) -> str:
    """What a recipe says of itself in its first line."""
    first = path.read_text("utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def find_recipe(name: str) -> Path:
    """The recipe file of a path or a name; what exists on disk wins over a name."""
    if Path(name).is_file():
        return Path(name)
    known = packaged_recipes()
    if name not in known:
        hint = nearest(name, list(known)) or "; `ling recipes` lists those of the package"
        raise UsageError(f"{name}: no such recipe{hint}")
    return known[name]


def read_recipe(path: str | Path, kind: type = PretrainConfig) -> dict[str, Any]:
    """The keys of a recipe file; refuses what is not YAML of `kind`'s keys, naming line or key.

    The values themselves are checked when the recipe is made.
    """
    return check_keys(read_yaml(path), path, kind)


def load_recipe(path: str | Path, kind: type = PretrainConfig) -> Any:
    """The recipe in a file, such as the `config.yaml` of a run: a `kind`."""
    tree = read_recipe(path, kind)
    for key, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and key in tree:
            tree[key] = hint(**tree[key])
    return kind(**tree)


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says; `UsageError` with the line of what is not YAML."""
    import yaml

    try:
        return yaml.load(Path(path).read_bytes().decode("utf-8-sig"), _strict_loader())
    except (OSError, UnicodeDecodeError) as err:
        raise UsageError(f"{path}: not a text file ({type(err).__name__})") from None
    except (yaml.YAMLError, RecursionError) as err:
        mark = getattr(err, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise UsageError(f"{path}{line}: not YAML ({getattr(err, 'problem', err)})") from None


def kind_of(tree: Any) -> type:
    """The kind of a recipe by the keys that only recipes of that kind have; else pre-training."""
    found = (kind for kind, marks in _MARKS.items() if any(_has(tree, mark) for mark in marks))
    return next(found, PretrainConfig)


def check_keys(tree: Any, path: str | Path, kind: type = PretrainConfig) -> dict[str, Any]:
    """`tree` as the keys of a recipe of `kind`; names a key that it does not have, or the command
    that takes such a recipe."""
    if _has(tree, _OF_GRIDS):
        raise _for_another_command(path, "scaling sweep", _OF_GRIDS)
    for other, marks in _MARKS.items():
        found = next((mark for mark in marks if _has(tree, mark)), None)
        if other is not kind and found and not any(_has(tree, mark) for mark in _MARKS[kind]):
            raise _for_another_command(path, COMMANDS[other], found)
    return _checked(kind, tree, str(path), "")


def _for_another_command(path: str | Path, command: str, key: str) -> UsageError:
    name = Path(path).stem if Path(path).is_relative_to(FOLDER) else path
    return UsageError(
        f"{name}: a recipe of `ling {command}` (it has `{key}`): run `ling {command} {name}`"
    )


def _has(tree: Any, key: str) -> bool:
    """Whether a dotted key is given."""
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return tree is not None


def _strict_loader() -> Any:
    """PyYAML's safe loader, but a key that is there twice is an error: it takes the last one."""
    import yaml

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if key.value in seen:
                    problem = f"the key `{key.value}` is there twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                if isinstance(key.value, str):
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Strict


def list_keys(kind: Any = PretrainConfig, prefix: str = "") -> list[str]:
    """Dotted keys that take several values, of which one may stand alone."""
    found: list[str] = []
    for key, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found += list_keys(hint, f"{prefix}{key}.")
        elif any(typing.get_origin(h) is list for h in (hint, *typing.get_args(hint))):
            found.append(prefix + key)
    return found


def _checked(kind: Any, tree: Any, path: str, prefix: str) -> dict[str, Any]:
    """Descend into the sections; a single value where a list is due becomes a list of one."""
    if not isinstance(tree, dict):
        where = f"`{prefix[:-1]}` is {as_json(tree)}, " if prefix else ""
        raise UsageError(
            f"{path}: {where}expected keys such as `{dataclasses.fields(kind)[0].name}:`"
        )
    sections, lists, result = typing.get_type_hints(kind), list_keys(kind), {}
    for key, value in tree.items():
        if key not in sections:
            raise UsageError(f"{path}: no key `{prefix}{key}`{nearest(str(key), list(sections))}")
        if key == "parallel" and value == "auto":
            value = {"auto": True}
        elif dataclasses.is_dataclass(sections[key]):
            value = _checked(sections[key], value, path, f"{prefix}{key}.")
        elif key in lists and isinstance(value, (str, int, float)):
            value = [value]
        elif value is False and "off" in typing.get_args(sections[key]):
            value = "off"  # YAML's other word for false
        result[key] = _from_home(value)
    return result


def _from_home(value: Any) -> Any:
    """`~/` of a path, or of each in a list, as a shell would have it."""
    if isinstance(value, list):
        return [_from_home(v) for v in value]
    is_path = isinstance(value, str) and value.startswith("~/")
    return os.path.expanduser(value) if is_path else value
