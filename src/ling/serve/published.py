"""What the published schema says beyond the types: rules between fields, as JSON Schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .fields import json_properties

JsonSchema = dict[str, Any]
_NULL = {"type": "null"}


def _given(name: str, value: JsonSchema | None = None) -> JsonSchema:
    """The field is there, and not null; or it has that value."""
    return {"required": [name], "properties": {name: value or {"not": _NULL}}}


def _rule(given: JsonSchema, needed: JsonSchema) -> JsonSchema:
    return {"if": given, "then": needed}


_IS_TRUE: JsonSchema = {"const": True}
_STREAMED = _rule(_given("stream_options"), _given("stream", _IS_TRUE))
_ZERO = _given("max_tokens", {"const": 0})
_ZERO_COMPLETION = _given("max_completion_tokens", {"const": 0})
_SHARED = (
    "`min_tokens` is at most `max_tokens`, and `best_of` is equal to `n`, which is 1 when it is "
    "not given. Unknown fields are ignored."
)
# That the last message is the assistant's cannot be stated of any number of them; of one it can.
_CONTINUED = _rule(
    _given("continue_final_message", _IS_TRUE),
    {
        "properties": {
            "add_generation_prompt": {"enum": [False, None]},
            "messages": {
                "maxItems": 1,
                "items": {
                    "required": ["role", "content"],
                    "properties": {"role": {"const": "assistant"}, "content": {"not": _NULL}},
                },
            },
        }
    },
)
CHAT: JsonSchema = {
    "allOf": [
        _STREAMED,
        _rule(_given("top_logprobs"), _given("logprobs", _IS_TRUE)),
        {"not": _ZERO},
        {"not": _ZERO_COMPLETION},
        _CONTINUED,
    ],
    "description": (
        f"`POST /v1/chat/completions`. {_SHARED} `max_completion_tokens` is taken before "
        "`max_tokens`. `tool_choice` needs `tools`; names in it are of some of them, and no two of "
        "them have one name. At most one of `response_format`, `structured_outputs` and `guided_*` "
        "is given. With `continue_final_message` the last of the messages is the assistant's."
    ),
}
COMPLETION: JsonSchema = {
    "allOf": [
        _STREAMED,
        _rule(
            _ZERO,
            {
                "required": ["echo"],
                "properties": {"echo": _IS_TRUE, "stream": {"enum": [False, None]}},
            },
        ),
    ],
    "description": f"`POST /v1/completions`. {_SHARED}",
}
TOKENIZE: JsonSchema = {
    "oneOf": [_given("prompt"), _given("messages")],
    "allOf": [_CONTINUED, _rule(_given("continue_final_message", _IS_TRUE), _given("messages"))],
    "description": "`POST /tokenize`: either a text, or messages to be rendered first.",
}
_CALLS_NOTHING: JsonSchema = {
    "properties": {"tool_calls": {"enum": [[], None]}, "function_call": _NULL}
}
_NAMED = (
    "A tool that `tool_choice` names is among `tools`. Images, documents and tools that a server "
    "runs are refused. Unknown fields are ignored."
)
_TOOLS = _given("tools", {"type": "array", "minItems": 1})
RESPONSES: JsonSchema = {
    "allOf": [
        _rule(_given("tool_choice", {"enum": ["required"]}), _TOOLS),
        _rule(_given("tool_choice", {"type": "object"}), _TOOLS),
        {"not": _given("max_output_tokens", {"const": 0})},
    ],
    "description": f"`POST /v1/responses`: nothing is stored between requests. {_NAMED}",
}
MESSAGES: JsonSchema = {
    "allOf": [
        _rule(
            _given(
                "tool_choice", {"properties": {"type": {"enum": ["any", "tool"]}}, "type": "object"}
            ),
            _TOOLS,
        )
    ],
    "description": f"Anthropic's `POST /v1/messages`, and its `count_tokens`. {_NAMED}",
}
MESSAGE: JsonSchema = {
    "allOf": [
        _rule(_given("role", {"enum": ["system", "developer", "user", "tool"]}), _given("content")),
        {"anyOf": [_given("role", {"const": "assistant"}), _CALLS_NOTHING]},
    ]
}
FORMAT: JsonSchema = {
    "allOf": [_rule(_given("type", {"const": "json_schema"}), _given("json_schema"))]
}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
"""`responses` of an endpoint that may answer with a stream."""


def publish(schema: JsonSchema, rules: JsonSchema) -> None:
    """Add rules, and the fields that no class names, to a request's schema."""
    schema.update(rules)
    schema["additionalProperties"] = True
    for name, allowed in json_properties().items():
        schema["properties"].setdefault(name, allowed)


# What pydantic calls the bounds of a type that has a validator of its own.
_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}


def _with_bounds(schema: Any) -> Any:
    """The same with JSON Schema's names for bounds."""
    if isinstance(schema, list):
        return [_with_bounds(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    named = _BOUNDS if schema.get("type") in ("integer", "number") else {}
    return {named.get(name, name): _with_bounds(inner) for name, inner in schema.items()}


def openapi(make: Callable[[], JsonSchema], vocab_size: int | None) -> JsonSchema:
    """What `make` publishes, with the ids that the model has once it is known."""
    schema = _with_bounds(make())
    if vocab_size is not None:
        items = schema["components"]["schemas"]["DetokenizeRequest"]["properties"]["tokens"]
        items["items"] |= {"minimum": 0, "maximum": vocab_size - 1}
    return schema
