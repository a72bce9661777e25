"""Types of request fields: what JSON gives, checked strictly and brought to one form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

MAX_STOPS = 16
MAX_STOP_LENGTH = 1024
MAX_PROMPTS = 128
MAX_BIASED = 1024


def whole_text(text: str) -> str:
    # JSON can spell half of a surrogate pair; no tokenizer and no reply can hold it.
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("holds half of a surrogate pair, which is no text")
    return text


Text = Annotated[StrictStr, AfterValidator(whole_text)]


def _whole(value: Any) -> Any:
    # JSON does not tell 3 from 3.0, and some clients write every number with a point.
    return int(value) if type(value) is float and value.is_integer() else value


Whole = Annotated[StrictInt, BeforeValidator(_whole)]
MaxTokens = Annotated[Whole, Field(ge=-1, le=2**63)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""Of reasoning: the model has one way to think, so every effort but `none` is that one."""


def _token_id(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) < 11):
        raise ValueError("expected a token id, a whole number below 2^31, as the name")
    return text


TokenId = Annotated[
    StrictStr,
    AfterValidator(_token_id),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,10}$"}),
]
LogitBias = Annotated[
    dict[TokenId, Annotated[Number, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIASED),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,10}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": MAX_BIASED,
        }
    ),
]


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(_whole(i)) is int for i in value)


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """One prompt or many, as text or as token ids, brought to a list of prompts."""
    if isinstance(value, str) or (_is_ids(value) and value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("expected text, a list of texts, token ids, or a list of token id lists")
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"{len(value)} prompts, at most {MAX_PROMPTS} fit in one request")
    if all(isinstance(p, str) for p in value):
        return [whole_text(p) for p in value]
    if all(_is_ids(p) for p in value):
        return [[_whole(i) for i in p] for p in value]
    raise ValueError("expected text, a list of texts, token ids, or a list of token id lists")


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        raise ValueError("expected text or a list of texts")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"{len(stops)} stop texts, at most {MAX_STOPS} are allowed")
    if any(not s or len(s) > MAX_STOP_LENGTH for s in stops):
        raise ValueError(f"a stop text has between 1 and {MAX_STOP_LENGTH} characters")
    return [whole_text(s) for s in stops]


def _content(value: Any) -> str | None:
    """Text of a message; a list of text parts is joined, null stays."""
    if value is None:
        return None
    if isinstance(value, str):
        return whole_text(value)
    if not isinstance(value, list):
        raise ValueError("expected text or a list of text parts")
    return "".join(_part(part) for part in value)


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind not in ("text", "refusal"):
        whole_text(kind)  # it is quoted
        raise ValueError(f"parts of type `{kind[:40]}` cannot be read; only `text` can")
    if not isinstance(kind, str) or not isinstance(part.get(kind), str):
        raise ValueError("a part needs `type` (`text`) and `text`")
    return whole_text(part[kind])


_TEXT = {"type": "string"}
_PARTS = [
    {
        "type": "object",
        "required": ["type", kind],
        "properties": {"type": {"const": kind}, kind: _TEXT},
    }
    for kind in ("text", "refusal")
]
_IDS = {"type": "array", "items": {"type": "integer"}}
_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
_MANY = {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS}
Prompts = Annotated[
    Any,
    PlainValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {**_MANY, "items": _TEXT},
                {**_IDS, "minItems": 1},
                {**_MANY, "items": _IDS},
            ]
        }
    ),
]
Stops = Annotated[
    Any,
    PlainValidator(_stops),
    WithJsonSchema(
        {
            "anyOf": [
                _STOP,
                {"type": "array", "items": _STOP, "maxItems": MAX_STOPS},
                {"type": "null"},
            ]
        }
    ),
]
Content = Annotated[
    Any,
    PlainValidator(_content),
    WithJsonSchema(
        {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": _PARTS}}, {"type": "null"}]}
    ),
]
