"""What each key of a recipe means, from the text under its field: for `--help` and the docs."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from typing import Any, NamedTuple

from .recipe import PretrainConfig


class Key(NamedTuple):
    """One dotted key: its type and default as they are written, and its meaning."""

    name: str
    type: str
    default: str
    text: str


def keys(kind: Any = PretrainConfig, prefix: str = "") -> list[Key]:
    """All keys below `kind`, those of sections behind it, each in the order of the file."""
    own: list[Key] = []
    sections: list[Key] = []
    hints, texts = typing.get_type_hints(kind), _texts(kind)
    for field in dataclasses.fields(kind):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            sections += keys(hint, f"{name}.")
        else:
            own.append(Key(name, str(field.type), _default(field), texts.get(field.name, "")))
    return own + sections


def section_texts(kind: Any = PretrainConfig) -> dict[str, str]:
    """What each section is about."""
    texts = _texts(kind)
    return {f.name: texts[f.name] for f in dataclasses.fields(kind) if _is_section(kind, f.name)}


def _is_section(kind: Any, name: str) -> bool:
    return dataclasses.is_dataclass(typing.get_type_hints(kind)[name])


def _texts(kind: Any) -> dict[str, str]:
    """The text under each field, in one line; a class may say another one than that it is of."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        texts |= _own_texts(base)
    return texts


def _own_texts(kind: Any) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            texts[field.target.id] = " ".join(str(below.value.value).split())
    return texts


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "required"
