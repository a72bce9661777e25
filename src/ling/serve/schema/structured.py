"""The form that an answer must have: OpenAI's `response_format` and vLLM's `structured_outputs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    WithJsonSchema,
    model_validator,
)

from ...errors import RequestError
from .. import published
from .common import Body
from .plain_json import plain_json
from .values import Text

if TYPE_CHECKING:
    from ...grammar.spec import StructuredOutputs

MAX_CHOICES = 5000
MAX_TEXT = 64 << 10


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a JSON schema, which is an object")
    return plain_json(value)


def _object_or_text(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, str) else _object(value)


Schema = Annotated[Any, PlainValidator(_object), WithJsonSchema({"type": "object"})]
SchemaOrText = Annotated[
    Any, PlainValidator(_object_or_text), WithJsonSchema({"type": ["object", "string"]})
]
Pattern = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)]
Choices = Annotated[
    list[Annotated[Text, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)
]


class NamedSchema(BaseModel):
    """`response_format.json_schema`."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    name: Text | None = None
    description: Text | None = None
    json_schema: Schema = Field(alias="schema")
    strict: StrictBool | None = None
    """True: a keyword that cannot be enforced is a 400 that names it; else it is ignored, and the
    header `x-ling-ignored-schema-keywords` says so."""


class Format(BaseModel):
    """`response_format`: any text, some JSON object (with a `schema`, one of that form), or JSON of
    a named schema."""

    model_config = ConfigDict(
        extra="ignore",
        populate_by_name=True,
        json_schema_extra=lambda s: s.update(published.FORMAT),
    )

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    object_schema: Schema | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _check_schema(self) -> Format:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("`json_schema` is missing")
        return self

    def fields(self) -> dict[str, Any] | None:
        """Fields of `StructuredOutputs`; None for any text."""
        if self.type == "text":
            return None
        if self.type == "json_schema" and self.json_schema is not None:
            return {"json": self.json_schema.json_schema, "strict": bool(self.json_schema.strict)}
        return {"json_object": True} if self.object_schema is None else {"json": self.object_schema}


class Outputs(BaseModel):
    """`structured_outputs`: exactly one of these."""

    model_config = ConfigDict(extra="ignore")

    json_schema: SchemaOrText | None = Field(default=None, alias="json")
    json_object: StrictBool | None = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    """In Lark's form."""


class Structured(Body):
    """Fields of a request that give its answer a form; at most one of them may."""

    response_format: Format | None = None
    structured_outputs: Outputs | None = None
    guided_json: SchemaOrText | None = None
    """`guided_*` are the older names of vLLM's `structured_outputs`."""
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None

    def structured(self) -> tuple[str, StructuredOutputs | None]:
        """The field that says what the answer must be, and what it says, None for any text; raises
        `RequestError` for two of them."""
        found = [(param, spec) for param, spec in self._asked() if spec]
        if len(found) > 1:
            (first, _), (second, _) = found[:2]
            raise RequestError(f"`{first}` and `{second}` cannot both be given", param=second)
        return (found[0][0], spec_of(*found[0])) if found else ("response_format", None)

    def _asked(self) -> list[tuple[str, dict[str, Any] | None]]:
        outputs, form = self.structured_outputs, self.response_format
        return [
            ("response_format", None if form is None else form.fields()),
            ("structured_outputs", None if outputs is None else _output_fields(outputs)),
            ("guided_json", _one("json", self.guided_json)),
            ("guided_regex", _one("regex", self.guided_regex)),
            ("guided_choice", _one("choice", self.guided_choice)),
            ("guided_grammar", _one("grammar", self.guided_grammar)),
        ]


def _one(name: str, value: Any) -> dict[str, Any] | None:
    return None if value is None else {name: value}


def _output_fields(given: Outputs) -> dict[str, Any]:
    values = {
        "json": given.json_schema,
        "json_object": given.json_object or None,
        "regex": given.regex,
        "choice": given.choice,
        "grammar": given.grammar,
    }
    found = {name: value for name, value in values.items() if value is not None}
    if len(found) != 1:
        raise RequestError(
            f"`structured_outputs` needs exactly one of {', '.join(values)}",
            param="structured_outputs",
        )
    return found


def spec_of(param: str, fields: dict[str, Any]) -> StructuredOutputs:
    """What `fields` ask for; raises `RequestError` that blames `param`."""
    from ...grammar.spec import StructuredOutputs

    try:
        return StructuredOutputs(**fields)
    except RequestError as error:
        raise RequestError(str(error), param=param) from None
