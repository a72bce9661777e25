"""What an answer may be, as a caller says it."""

from __future__ import annotations

import pytest

from ling.errors import RequestError
from ling.grammar.spec import StructuredOutputs
from ling.grammar.tools import tool_grammar

TOOLS = [{"name": "f", "parameters": {"type": "object"}}]


def test_each_kind_is_known_by_the_field_that_is_given():
    given = {
        "json": {"type": "object"},
        "json_object": True,
        "regex": "a+",
        "choice": ["a", "b"],
        "grammar": 'start: "a"',
        "tools": tool_grammar(TOOLS, "required").tools,
    }
    for kind, value in given.items():
        assert StructuredOutputs(**{kind: value}).kind == kind
    assert StructuredOutputs(choice=["a", "b"]).choice == ("a", "b")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "given: none"),
        ({"regex": "a", "choice": ["a"]}, "given: `regex` and `choice`"),
        ({"json": False}, "which no value has"),
        ({"json": 3}, "`structured_outputs.json` must be a JSON schema"),
        ({"regex": 3}, "`structured_outputs.regex` must be a regular"),
        ({"choice": "yes"}, "`structured_outputs.choice` must be a list of texts"),
        ({"choice": []}, "`structured_outputs.choice` must be a list of texts"),
        ({"choice": ["a", 1]}, "`structured_outputs.choice` must be a list of texts"),
        ({"tools": {}}, "what `tool_grammar` makes"),
    ],
)
def test_what_is_no_specification_is_refused(fields, named):
    with pytest.raises(RequestError, match=named.replace("(", r"\(")) as err:
        StructuredOutputs(**fields)
    assert (err.value.status, err.value.param) == (400, "structured_outputs")
