"""Schemas that cost a server much, and a request of each API that has one; also measured by
`benchmarks/hostile_schemas.py`."""

from __future__ import annotations


def letters(count: int) -> list[dict]:
    return [{"type": "string", "pattern": f".*{chr(97 + i % 26)}{i}.*"} for i in range(count)]


def deep_schema(levels: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


HOSTILE = {
    "allOf of 40 patterns": {"allOf": letters(40)},
    "allOf of 8 in each of 8": {"allOf": [{"allOf": letters(8)} for _ in range(8)]},
    "patterns spread over references": {
        "allOf": [{"$ref": f"#/$defs/{i}"} for i in range(20)],
        "$defs": {str(i): pattern for i, pattern in enumerate(letters(20))},
    },
    "5,000 properties": {
        "type": "object",
        "properties": {f"p{i}": {"type": "string"} for i in range(5000)},
    },
    "1,000 properties, within the bounds": {
        "type": "object",
        "properties": {f"p{i}": {"type": "string", "pattern": f".*{i}.*"} for i in range(1000)},
    },
    "a multiple that takes too long to compile": {
        "type": "object",
        "properties": {"a": {"type": "integer", "multipleOf": 999_983}},
        "required": ["a"],
    },
    "repetitions of repetitions": {
        "type": "string",
        "pattern": "((a{1,1000}){1,1000}){1,1000}",
    },
    "a reference to itself": {"$ref": "#"},
    "a file": {"$ref": "file:///etc/passwd"},
    "30 levels": deep_schema(30),
    "100,000 values": {"enum": list(range(100_000))},
    "a billion items": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
        "minItems": 10**9,
    },
    "alternatives of alternatives": {
        "anyOf": [{"anyOf": [{"anyOf": letters(8)} for _ in range(8)]} for _ in range(8)]
    },
}


def requests_with(schema: dict, model: str) -> list[tuple[str, dict]]:
    """Path and body of requests for two tokens, with the schema in each place where one may be."""
    hi = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    function = {"name": "f", "parameters": schema, "strict": True}
    tools = [{"type": "function", "function": function}]
    form = {"type": "json_schema", "schema": schema}
    openai_form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    prompt = {"model": model, "prompt": "hi", "max_tokens": 2}
    given = {"model": model, "input": "hi", "max_output_tokens": 2}
    return [
        ("/v1/chat/completions", {**hi, "tools": tools, "tool_choice": "required"}),
        ("/v1/chat/completions", {**hi, "response_format": openai_form}),
        ("/v1/completions", {**prompt, "structured_outputs": {"json": schema}}),
        ("/v1/responses", {**given, "text": {"format": {**form, "name": "n"}}}),
        ("/v1/messages", {**hi, "output_config": {"format": form}}),
    ]
