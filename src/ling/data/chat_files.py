"""Where a model folder keeps its chat template: all the places that people have one.

A template that cannot be read stops chat and nothing else, so it is a sentence, not an error.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..text import shown

_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_BYTES = 4 << 20


class FoundTemplate(NamedTuple):
    """A template's source, or why the folder's own cannot be used."""

    source: str | None = None
    problem: str | None = None


NO_TEMPLATE = FoundTemplate()


def find_template(folder: Path, config: Mapping[str, Any]) -> FoundTemplate:
    """`chat_template.jinja`, else that of tokenizer_config.json, else `chat_template.json`.

    This is the order of transformers; a place that is empty counts as absent.
    """
    for found in (
        _of_file(folder / "chat_template.jinja"),
        _of_value(folder / "tokenizer_config.json", config.get("chat_template")),
        _of_json(folder / "chat_template.json"),
    ):
        if found != NO_TEMPLATE:
            return found
    return NO_TEMPLATE


def _of_file(path: Path) -> FoundTemplate:
    if not path.is_file():
        return NO_TEMPLATE
    try:
        return _of_value(path, _text(path))
    except (OSError, ValueError):
        return FoundTemplate(problem=f"{path}: not readable as UTF-8")


def _of_json(path: Path) -> FoundTemplate:
    if not path.is_file():
        return NO_TEMPLATE
    try:
        raw = json.loads(_text(path))
    except (OSError, ValueError, RecursionError):
        return FoundTemplate(problem=f"{path}: not valid JSON")
    return _of_value(path, raw.get("chat_template") if isinstance(raw, dict) else raw)


def _of_value(path: Path, value: Any) -> FoundTemplate:
    """A template as text, as an object of names, or as a list of objects with `name`."""
    if isinstance(value, list):
        value = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
    if isinstance(value, dict):
        value = _default(value)
        if value is None:
            return FoundTemplate(problem=f"{path}: several chat templates, none named `default`")
    if value is None or (isinstance(value, str) and not value.strip()):
        return NO_TEMPLATE
    if not isinstance(value, str):
        return FoundTemplate(problem=f"{path}: the chat template is {shown(value)}, expected text")
    return FoundTemplate(value)


def _default(named: Mapping[Any, Any]) -> Any:
    """The template named `default`, or the only one; "" where there is none at all."""
    if "default" in named:
        return named["default"] or ""
    if len(named) > 1:
        return None
    return next(iter(named.values()), "") or ""


def _text(path: Path) -> str:
    """Text of a file: UTF-8, or UTF-16 with its mark, as editors on Windows save it."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("too large")
    data = path.read_bytes()
    return data.decode("utf-16" if data.startswith(_MARKS) else "utf-8-sig")
