"""The files beside tokenizer.json: settings, names of special tokens, further tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TokenizerError
from .chat_files import FoundTemplate, find_template

_MAX_BYTES = 32 << 20


class Companions(NamedTuple):
    """What the files beside tokenizer.json say; `added` has the form of `added_tokens` there."""

    config: dict[str, Any]
    generation: dict[str, Any]
    special_tokens: dict[str, str]
    more_special_tokens: list[str]
    added: list[dict[str, Any]]
    template: FoundTemplate


def read_companions(folder: Path) -> Companions:
    """Read them; absent ones are empty. Raises `TokenizerError` naming the file."""
    config = read_object(folder / "tokenizer_config.json")
    names = read_object(folder / "special_tokens_map.json")
    special = special_names(names) | special_names(config)
    more = _more_names(names) + _more_names(config)
    return Companions(
        config,
        read_object(folder / "generation_config.json"),
        special,
        list(dict.fromkeys(more)),
        _added(folder, config, {*special.values(), *more}),
        find_template(folder, config),
    )


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file, {} for no file; raises `TokenizerError` naming it."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise TokenizerError(f"{path}: {path.stat().st_size} bytes, the limit is {_MAX_BYTES}")
        raw = json.loads(path.read_bytes())  # bytes: a mark of UTF-8 or UTF-16 is understood
    except TokenizerError:
        raise
    except (OSError, ValueError, RecursionError):
        raise TokenizerError(f"{path}: not valid JSON") from None
    if not isinstance(raw, dict):
        raise TokenizerError(f"{path}: expected a JSON object")
    return raw


def special_names(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like, those that transformers 5 keeps in `extra_special_tokens` too."""
    extra = config.get("extra_special_tokens")
    found = {}
    for key, value in [*(extra.items() if isinstance(extra, dict) else ()), *config.items()]:
        name = _name(value)
        if key.endswith("_token") and name is not None:
            found[key] = name
    return found


def _more_names(config: Mapping[str, Any]) -> list[str]:
    """Special tokens without a role of their own; transformers 5 calls the list `extra_...`."""
    lists = (config.get("additional_special_tokens"), config.get("extra_special_tokens"))
    names = (_name(v) for values in lists if isinstance(values, list) for v in values)
    return [n for n in names if n is not None]


def _name(value: Any) -> str | None:
    """A token's name: text, or an object with `content`."""
    name = value.get("content") if isinstance(value, dict) else value
    return name if isinstance(name, str) and name else None


def _added(folder: Path, config: Mapping[str, Any], special: set[str]) -> list[dict[str, Any]]:
    """Tokens of `added_tokens_decoder`, then those that only the older added_tokens.json has."""
    decoder = config.get("added_tokens_decoder")
    found: dict[str, dict[str, Any]] = {}
    for key, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            found[token["content"]] = {**token, "id": int(key) if key.isdecimal() else key}
    for name, i in read_object(folder / "added_tokens.json").items():
        # The list of ids has no marks; that a token has a role says that it is special.
        found.setdefault(name, {"id": i, "content": name, "special": name in special})
    return list(found.values())
