"""Bounds of what a client may ask for, checked before any library sees it.

A schema of a few hundred bytes can keep a library busy for minutes (`allOf` of twenty patterns: 22
seconds), so size, depth and counts are bounded here, and what these bounds let through is compiled
in a child process with a deadline first (`probe.py`).
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import RequestError
from .spec import PARAM, StructuredOutputs

MAX_BYTES = 64 << 10
MAX_DEPTH = 32
"""Schemas within schemas. JSON itself may be nested twice as deep: a schema lies in a keyword."""
MAX_PATTERNS = 8
"""Patterns within one `allOf`: their intersection grows exponentially."""
MAX_PROPERTIES = 1000
MAX_ENUM = 5000
MAX_LEAST = 10_000
"""Of `minLength`, `minItems` and `minProperties`: no context has room for more."""
MAX_MOST = 1_000_000_000
"""A larger `maxLength` and its like are no bound; the library's numbers end before 2^32."""

_LEAST = ("minLength", "minItems", "minProperties")
_MOST = ("maxLength", "maxItems", "maxProperties")
_ONE = (
    *("items", "additionalItems", "contains", "additionalProperties", "propertyNames", "not"),
    *("if", "then", "else", "unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def check(spec: StructuredOutputs) -> StructuredOutputs:
    """The same with every schema as an object; raises `RequestError` beyond a bound."""
    if spec.kind == "json":
        return dataclasses.replace(spec, json=checked_schema(spec.json))
    if spec.tools is not None:
        total = 0
        for tool in spec.tools.tools:
            schema = checked_schema(tool.parameters, f"parameters of `{tool.name[:64]}`")
            total += len(_text(schema))
        _bound(total, MAX_BYTES, "schemas of all tools together", "bytes")
    texts = [*(spec.choice or ()), spec.regex or "", spec.grammar or ""]
    _bound(sum(len(_utf8(text)) for text in texts), MAX_BYTES, f"`{spec.kind}`", "bytes")
    _bound(len(spec.choice or ()), MAX_ENUM, "`choice`", "texts")
    return spec


def checked_schema(given: Any, what: str = "schema") -> Mapping[str, Any]:
    """A JSON schema as an object; raises `RequestError` for what is none, or beyond a bound."""
    if isinstance(given, str):
        _bound(len(_utf8(given)), MAX_BYTES, what, "bytes")
    schema = _parsed(given, what) if isinstance(given, str) else given
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise _refusal(f"{what}: expected a JSON object")
    _check_nesting(schema, what)
    _bound(len(_text(schema)), MAX_BYTES, what, "bytes")
    _check_counts(schema, what)
    # A client's `x-guidance` would change how the library reads the schema.
    return {k: v for k, v in schema.items() if k != "x-guidance"}


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise _refusal(f"{what}: nested more than {MAX_DEPTH} schemas deep") from None
    except ValueError as err:
        raise _refusal(f"{what}: no JSON ({err})") from None


def _text(schema: Mapping[str, Any]) -> bytes:
    try:
        return _utf8(json.dumps(schema, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError):
        raise _refusal("schema: holds something that JSON does not have") from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _refusal("a text has a lone surrogate") from None


def _check_nesting(schema: Any, what: str) -> None:
    """Without recursion, so that no depth can end this process."""
    level: list[Any] = [schema]
    for _ in range(2 * MAX_DEPTH + 1):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise _refusal(f"{what}: nested more than {MAX_DEPTH} schemas deep")


def _inside(value: Any) -> list[Any]:
    """Objects and lists directly within a value."""
    values = value.values() if isinstance(value, Mapping) else value
    return [v for v in values if isinstance(v, (Mapping, list, tuple)) and v]


def _check_counts(schema: Mapping[str, Any], what: str) -> None:
    properties = values = 0
    for part in subschemas(schema):
        properties += sum(len(_mapping(part, key)) for key in ("properties", "patternProperties"))
        values += len(part["enum"]) if isinstance(part.get("enum"), list) else 0
        _check_repetition(part, what)
        if isinstance(part.get("allOf"), list):
            _check_patterns(part["allOf"], schema, what)
    _bound(properties, MAX_PROPERTIES, what, "properties")
    _bound(values, MAX_ENUM, what, "values of `enum`")


def _check_patterns(schemas: Sequence[Any], root: Mapping[str, Any], what: str) -> None:
    """Bound the patterns that one value must match: those at the same place of each schema."""
    counts: Counter[tuple[str, ...]] = Counter()
    for place, part in _joined(schemas, root):
        counts[place] += ("pattern" in part) + ("format" in part)
        counts[place] += len(_mapping(part, "patternProperties"))
    most = max(counts.values(), default=0)
    if most > MAX_PATTERNS:
        raise _refusal(f"{what}: {most} patterns in one `allOf`, at most {MAX_PATTERNS}")


def _joined(
    schemas: Sequence[Any], root: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """All schemas within some, with the place of the value that they are about; of what they refer
    to each is followed once."""
    todo: list[tuple[tuple[str, ...], Any]] = [((), schema) for schema in schemas]
    seen = set[str]()
    while todo:
        place, part = todo.pop()
        if not isinstance(part, Mapping):
            continue
        yield place, part
        for key in ("allOf", "anyOf", "oneOf"):
            listed = part.get(key)
            todo += [(place, inner) for inner in listed] if isinstance(listed, list) else []
        for name, inner in _mapping(part, "properties").items():
            todo.append(((*place, name), inner))
        todo += [((*place, "*"), part[key]) for key in _ONE if key in part]
        ref = part.get("$ref")
        if isinstance(ref, str) and ref not in seen:
            seen.add(ref)
            todo.append((place, _pointed_at(root, ref)))


def _mapping(part: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = part.get(key)
    return value if isinstance(value, Mapping) else {}


def _pointed_at(root: Any, ref: str) -> Any:
    """What a reference within the schema points at, None where it leads nowhere."""
    for name in ref.removeprefix("#").split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(root, Mapping):
            root = root.get(name)
        elif isinstance(root, list) and name.isdecimal() and int(name) < len(root):
            root = root[int(name)]
        else:
            return None
    return root if ref.startswith("#") else None


def _check_repetition(part: Mapping[str, Any], what: str) -> None:
    for keys, most in ((_LEAST, MAX_LEAST), (_MOST, MAX_MOST)):
        for key in keys:
            value = part.get(key)
            if isinstance(value, (int, float)) and not value <= most:
                raise _refusal(f"{what}: `{key}` is {value}, at most {most}")


def subschemas(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema and all within it, in no order."""
    todo: list[Any] = [schema]
    while todo:
        part = todo.pop()
        if not isinstance(part, Mapping):
            continue
        yield part
        todo += [part[key] for key in _ONE if key in part]
        for key in _LISTS:
            todo += part[key] if isinstance(part.get(key), list) else []
        for key in _MAPS:
            todo += part[key].values() if isinstance(part.get(key), Mapping) else []


def _bound(count: int, most: int, what: str, unit: str) -> None:
    if count > most:
        raise _refusal(f"{what}: {count} {unit}, at most {most}")


def _refusal(message: str) -> RequestError:
    return RequestError(message, param=PARAM)
