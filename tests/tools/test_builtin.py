"""The table of tools: definitions, what they mean, and calls with wrong arguments."""

from __future__ import annotations

import json

import jsonschema
import pytest

from ling.tools import BUILTIN, builtin, run

GOOD = {
    "calculator": ({"expression": "6 * 7"}, "42"),
    "convert_units": ({"value": 2.5, "from_unit": "feet", "to_unit": "inches"}, "30"),
    "clock": ({"part": "weekday"}, None),
}


@pytest.mark.parametrize("name", BUILTIN)
def test_a_call_that_the_schema_allows_has_a_result(name):
    arguments, result = GOOD[name]
    jsonschema.Draft202012Validator(BUILTIN[name].parameters).validate(arguments)
    given = run(BUILTIN[name], json.dumps(arguments))
    assert given == result if result else given.endswith("day")


@pytest.mark.parametrize("name", BUILTIN)
def test_a_definition_means_its_tool_and_another_of_the_name_does_not(name):
    definition = json.loads(json.dumps(BUILTIN[name].definition))
    assert builtin(definition) is BUILTIN[name]
    definition["function"]["description"] = "in other words"
    assert builtin(definition) is BUILTIN[name]
    definition["function"]["parameters"]["properties"]["more"] = {"type": "string"}
    assert builtin(definition) is None
    for odd in ({}, {"function": "x"}, {"function": {"name": ["a"]}}, {"function": {}}):
        assert builtin(odd) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "error: the arguments are no JSON object"),
        ("[1]", "error: the arguments are no JSON object"),
        ("[" * 100_000, "error: the arguments are no JSON object"),
        ("{}", "error: the argument value is missing"),
        ('{"value": 1, "from_unit": "feet"}', "error: the argument to_unit is missing"),
        ('{"x": 1}', "error: convert_units has no argument x"),
        ('{"value": "1", "from_unit": "a", "to_unit": "b"}', "error: value must be a number"),
        ('{"value": true, "from_unit": "a", "to_unit": "b"}', "error: value must be a number"),
        ('{"value": NaN, "from_unit": "a", "to_unit": "b"}', "error: value must be a number"),
        ('{"value": 1e400, "from_unit": "a", "to_unit": "b"}', "error: value must be a number"),
        ('{"value": 1, "from_unit": 7, "to_unit": "b"}', "error: from_unit must be a text"),
        ('{"value": 1, "from_unit": "feet", "to_unit": "b"}', "error: no such unit: b"),
    ],
)
def test_wrong_arguments_are_said_to_the_model(arguments, message):
    assert run(BUILTIN["convert_units"], arguments).startswith(message)
