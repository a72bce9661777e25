"""The table of tools: definitions, what they mean, and calls with wrong arguments."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta

import jsonschema
import pytest

from ling.nano.dialogues.draw import Draw
from ling.nano.dialogues.tools_time import TIME
from ling.nano.dialogues.tools_values import VALUES
from ling.tools import BUILTIN, builtin, run

GOOD = {
    "calculator": ({"expression": "6 * 7"}, {"result": 42}),
    "convert_units": ({"value": 2.5, "unit": "feet", "to": "inches"}, {"result": 30}),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_call_that_the_schema_allows_has_a_result(name):
    arguments, result = GOOD[name]
    jsonschema.Draft202012Validator(BUILTIN[name].parameters).validate(arguments)
    assert json.loads(run(BUILTIN[name], json.dumps(arguments))) == result


def test_the_clock_tells_the_time_of_now():
    before = datetime.now()
    time, date = (json.loads(run(BUILTIN[name], "{}")) for name in ("clock", "date"))
    told = f"{before.year} {date['date']} {time['time']}"
    assert before - timedelta(minutes=2) < datetime.strptime(told, "%Y %B %d %H:%M")
    assert datetime.strptime(told, "%Y %B %d %H:%M") <= datetime.now()


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
        ("", "the arguments are no JSON object"),
        ("[1]", "the arguments are no JSON object"),
        ("[" * 100_000, "the arguments are no JSON object"),
        ("{}", "the argument value is missing"),
        ('{"value": 1, "unit": "feet"}', "the argument to is missing"),
        ('{"x": 1}', "convert_units has no argument x"),
        ('{"value": "1", "unit": "a", "to": "b"}', "value must be a number"),
        ('{"value": true, "unit": "a", "to": "b"}', "value must be a number"),
        ('{"value": NaN, "unit": "a", "to": "b"}', "value must be a number"),
        ('{"value": 1e400, "unit": "a", "to": "b"}', "value must be a number"),
        ('{"value": 1, "unit": 7, "to": "b"}', "unit must be a text"),
        ('{"value": 1, "unit": "feet", "to": "b"}', "unknown unit b"),
        ('{"value": 1, "unit": "feet", "to": "\\ud800"}', "unknown unit \ud800"),
    ],
)
def test_wrong_arguments_are_said_to_the_model(arguments, message):
    result = run(BUILTIN["convert_units"], arguments)
    assert json.loads(result)["error"].startswith(message)
    result.encode()  # which half a surrogate pair cannot be


@pytest.mark.parametrize("name", BUILTIN)
def test_our_own_model_is_trained_on_tools_of_this_form(name):
    """Under this name and description, with such arguments, among others."""
    definition = BUILTIN[name].definition["function"]
    (kind,) = (k for k in (*TIME, *VALUES) if name in k.names)
    assert definition["description"] in kind.descriptions
    properties = definition["parameters"]["properties"]
    for own, argument in zip(properties.items(), kind.arguments.values(), strict=True):
        assert own[0] in argument.names
        assert own[1] == {"type": argument.type}
    rng = random.Random(0)
    tool = kind.offer(rng, "train")
    results = [kind.ask(Draw(rng, "train"), tool).call.result for _ in range(50)]
    given = json.loads(run(BUILTIN[name], json.dumps(GOOD.get(name, ({},))[0])))
    assert given.keys() in [result.keys() for result in results if isinstance(result, dict)]
