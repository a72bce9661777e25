"""Lists of typed objects, as the newer APIs send them: `{"type": "message", ...}`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, Tag
from pydantic_core import CoreSchema, core_schema

from .values import whole_text

JsonSchema = dict[str, Any]
MAX_PARTS = 16_384


@dataclass(frozen=True, eq=False)  # typing wants a hash
class Refused:
    """Marks a field that this server cannot honour; null and `harmless` values ask for nothing."""

    why: str
    harmless: tuple[Any, ...] = ()

    def _check(self, value: Any) -> Any:
        # `0 == False` in Python, so types are compared too.
        if value is None or any(type(value) is type(h) and value == h for h in self.harmless):
            return value
        raise ValueError(self.why)

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> JsonSchema:
        return {"enum": [*self.harmless, None]}


@dataclass(frozen=True, eq=False)  # typing wants a hash
class OrText:
    """Marks a value that may be a text instead, which stands for `wrap(text)`."""

    wrap: Callable[[str], Any]
    texts: JsonSchema = field(default_factory=lambda: {"type": "string"})
    """Schema of those texts."""

    def _wrapped(self, value: Any) -> Any:
        return self.wrap(value) if isinstance(value, str) else value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._wrapped, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchema:
        return {"anyOf": [self.texts, handler(schema)]}


@dataclass(frozen=True, eq=False)  # typing wants a hash
class ByType:
    """Tells the members of a union apart by a field of theirs.

    `what` names them in errors; `default` is the type of one that names none.
    """

    what: str
    types: tuple[str, ...]
    default: str | None = None
    key: str = "type"

    def tag(self, value: Any) -> str:
        """The tag of a value that has passed `check`."""
        return tag_of(value.get(self.key, self.default))

    def check(self, value: Any) -> Any:
        """Raise `ValueError` for what is no member."""
        kind = value.get(self.key, self.default) if isinstance(value, dict) else None
        if not isinstance(kind, str):
            raise ValueError(f"expected an object with a `{self.key}`")
        if kind not in self.types:
            whole_text(kind)  # it is quoted
            known = ", ".join(f"`{name}`" for name in self.types)
            raise ValueError(
                f"{self.what} with the {self.key} `{kind[:40]}` cannot be used here, only {known}"
            )
        return value


def bounded(messages: Any) -> Any:
    """The messages, if they and their parts are not too many to be looked at one by one, which
    takes microseconds each; raises `ValueError`."""
    level, count = messages if isinstance(messages, list) else [], 0
    while level and count <= MAX_PARTS:
        count += len(level)
        level = [part for holder in level for part in _parts(holder)]
    if count > MAX_PARTS:
        raise ValueError(f"messages and their parts are more than {MAX_PARTS}")
    return messages


def _parts(holder: Any) -> list[Any]:
    if not isinstance(holder, dict):
        return []
    lists = [holder.get(name) for name in ("content", "output", "summary")]
    return [part for parts in lists if isinstance(parts, list) for part in parts]


def tag_of(kind: str) -> str:
    """A union's tag; the brackets keep it out of the paths that errors name (`problems.py`)."""
    return f"<{kind}>"


def tag(kind: str) -> Tag:
    """Marks the member of a union that has this `type`."""
    return Tag(tag_of(kind))
