"""Lists of typed objects, as the newer APIs send them: `{"type": "message", ...}`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, Tag
from pydantic_core import CoreSchema, core_schema

from .values import whole_text

JsonSchema = dict[str, Any]


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


def tag_of(kind: str) -> str:
    """A union's tag; the brackets keep it out of the paths that errors name (`problems.py`)."""
    return f"<{kind}>"


def tag(kind: str) -> Tag:
    """Marks the member of a union that has this `type`."""
    return Tag(tag_of(kind))
