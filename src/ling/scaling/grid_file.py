"""Grid files: YAML, read and checked key by key."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from ..config.recipe_file import find_recipe, read_yaml
from ..errors import UsageError
from ..text import nearest, shown
from .grid import Grid

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def read_grid(name: str | Path) -> Grid:
    """The grid of a file, or of a name of the package; `UsageError` names file and key."""
    path = find_recipe(str(name))
    try:
        grid: Grid = _built(Grid, read_yaml(path), "")
    except UsageError as err:
        text = str(err)
        raise UsageError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    return grid


def grid_yaml(grid: Grid) -> str:
    """The grid with every key, as `read_grid` takes it."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(grid), sort_keys=False)


def _built(kind: Any, tree: Any, prefix: str) -> Any:
    """A dataclass from its keys."""
    if not isinstance(tree, dict):
        where = f"`{prefix[:-1]}` is {shown(tree)}, " if prefix else ""
        raise UsageError(f"{where}expected keys such as `{dataclasses.fields(kind)[0].name}:`")
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in hints:
            raise UsageError(f"no key `{prefix}{key}`{nearest(str(key), list(hints))}")
    for field in dataclasses.fields(kind):
        required = dataclasses.MISSING in (field.default, field.default_factory)
        required = required and field.default is field.default_factory
        if required and field.name not in tree:
            raise UsageError(f"`{prefix}{field.name}` is missing")
    return kind(**{key: _value(hints[key], value, prefix + key) for key, value in tree.items()})


def _value(hint: Any, value: Any, key: str) -> Any:
    """A value of the annotated type; a single one where a list is due becomes a list of one."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _built(hint, value, f"{key}.")
    if origin is dict:
        return _table(inner[1], value, key)
    if origin is list:
        items = value if isinstance(value, list) else [value]
        return [_value(inner[0], item, f"{key}[{n}]") for n, item in enumerate(items)]
    if origin is typing.Literal:
        if value not in inner:
            raise UsageError(f"`{key}` is {shown(value)}, expected {' or '.join(map(str, inner))}")
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(inner[0], value, key)
    return _scalar(hint, value, key)


def _table(kind: Any, value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise UsageError(f"`{key}` is {shown(value)}, expected names with what each is")
    return {str(name): _value(kind, item, f"{key}.{name}") for name, item in value.items()}


def _scalar(kind: Any, value: Any, key: str) -> Any:
    """`1e14` is a text in YAML, and a number here where one is due; a name may look like one."""
    if kind is str and type(value) in (int, float):
        return str(value)
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not kind:
        raise UsageError(f"`{key}` is {shown(value)}, expected {_WORDS[kind]}")
    return value
