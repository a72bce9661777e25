"""Hostile schemas are refused before a library sees them."""

from __future__ import annotations

import json
import time

import pytest

from ling.errors import RequestError
from ling.grammar.bounds import check, checked_schema, subschemas
from ling.grammar.spec import StructuredOutputs


def nested(depth, leaf=None):
    schema = leaf or {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def patterns(count, **more):
    return {"allOf": [{"pattern": f".*{chr(97 + i % 26)}.*", **more} for i in range(count)]}


SELF = {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"pattern": "x"}]}}}
HOSTILE = {
    "65536 bytes": {"const": "x" * 65536},
    "text of 65536 bytes": json.dumps({"const": "x" * 65536}),
    "40 patterns": patterns(40),
    "patterns in a property": {
        "allOf": [{"properties": {"a": {"pattern": f"{i}"}}} for i in range(9)]
    },
    "patterns by reference": {
        "allOf": [{"$ref": f"#/$defs/{i}"} for i in range(9)],
        "$defs": {str(i): {"pattern": f".*{i}.*"} for i in range(9)},
    },
    "33 schemas deep": nested(33),
    "3,000 schemas deep": nested(3000),
    "text of 30,000 brackets": "[" * 30000,
    "1,001 properties": {"properties": {str(i): {} for i in range(1001)}},
    "1,001 properties in all": {
        "properties": {"a": {"properties": {str(i): {} for i in range(1000)}}}
    },
    "5,001 values": {"enum": list(range(5001))},
    "a billion items": {"type": "array", "minItems": 10**9},
    "a million characters": {"type": "string", "minLength": 10**6},
    "2^60 characters at most": {"type": "string", "maxLength": 2**60},
    "not a number": {"maximum": float("nan")},
    "a set": {"enum": {1}},
    "surrogate": {"const": "\ud800"},
    "no JSON": "{",
    "a list": "[]",
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_schemas_are_refused_at_once(schema):
    begin = time.process_time()
    with pytest.raises(RequestError) as err:
        checked_schema(schema)
    assert time.process_time() - begin < 0.5
    assert "\n" not in str(err.value)
    assert err.value.param == "structured_outputs"


SOUND = {
    "32 deep": nested(31),
    "8 patterns": patterns(8),
    "patterns of different properties": {
        "allOf": [{"properties": {str(i): {"pattern": "x"}}} for i in range(30)]
    },
    "1,000 properties": {"properties": {str(i): {} for i in range(1000)}},
    "5,000 values": {"enum": list(range(5000))},
    "a reference to itself": SELF,
    "keywords of wrong types": {"properties": 3, "allOf": {}, "enum": "x", "items": 1, "$ref": 2},
}


@pytest.mark.parametrize("schema", SOUND.values(), ids=SOUND.keys())
def test_what_is_within_the_bounds_is_kept_as_it_is(schema):
    assert checked_schema(schema) == schema
    assert checked_schema(json.dumps(schema)) == schema


def test_a_client_cannot_change_how_a_schema_is_read():
    assert checked_schema({"type": "object", "x-guidance": {"lenient": True}}) == {"type": "object"}
    assert checked_schema("true") == {}


def test_texts_of_other_kinds_are_bounded_too():
    for spec in (
        StructuredOutputs(regex="a" * 65537),
        StructuredOutputs(grammar="a" * 65537),
        StructuredOutputs(choice=["é" * 32769]),
        StructuredOutputs(choice=["a"] * 5001),
    ):
        with pytest.raises(RequestError, match="at most"):
            check(spec)


def test_every_keyword_with_schemas_is_looked_into():
    leaf = {"minItems": 1}
    for schema in (
        {"items": leaf},
        {"prefixItems": [leaf]},
        {"anyOf": [{}, leaf]},
        {"patternProperties": {"a": leaf}},
        {"$defs": {"a": {"not": leaf}}},
        {"additionalProperties": {"if": leaf}},
    ):
        assert leaf in list(subschemas(schema))
