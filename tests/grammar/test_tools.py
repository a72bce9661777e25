"""What `tool_choice` makes of the tools."""

from __future__ import annotations

import pytest

from ling.errors import RequestError
from ling.grammar.tools import MAX_TOOLS, tool_grammar

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
LOOSE = {"type": "function", "function": {"name": "loose", "parameters": CITY}}
STRICT = {"type": "function", "function": {"name": "strict", "parameters": CITY, "strict": True}}


def test_required_and_named_enforce_every_schema():
    both = tool_grammar([LOOSE, STRICT], "required").tools
    assert [(t.name, t.parameters, t.strict) for t in both.tools] == [
        ("loose", CITY, False),
        ("strict", CITY, True),
    ]
    assert (both.required, both.parallel) == (True, True)
    assert not tool_grammar([LOOSE], "required", parallel=False).tools.parallel
    named = tool_grammar([LOOSE, STRICT], "loose").tools
    assert [t.name for t in named.tools] == ["loose"]
    assert (named.required, named.parallel) == (True, False)


def test_auto_enforces_strict_tools_and_the_number_of_calls():
    assert tool_grammar([LOOSE], "auto") is None
    one = tool_grammar([LOOSE], "auto", parallel=False).tools
    assert (one.required, one.parallel) == (False, False)
    both = tool_grammar([LOOSE, STRICT], "auto").tools
    assert [t.parameters for t in both.tools] == [{"type": "object"}, CITY]


def test_functions_may_be_listed_bare_and_without_parameters():
    (tool,) = tool_grammar([{"name": "f"}], "required").tools.tools
    assert tool.parameters == {"type": "object"}
    (tool,) = tool_grammar([{"name": "f", "parameters": {}}], "required").tools.tools
    assert tool.parameters == {"type": "object"}


def test_arguments_are_an_object_whatever_else_a_schema_allows():
    either = {"type": ["object", "null"], "properties": {"a": {}}}
    (tool,) = tool_grammar([{"name": "f", "parameters": either}], "f").tools.tools
    assert tool.parameters == {"type": "object", "properties": {"a": {}}}


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([], "required", "tools"),
        ([{"name": str(i)} for i in range(MAX_TOOLS + 1)], "required", "tools"),
        ([{"name": "f"}, {"name": "f"}], "required", "tools"),
        ([{"parameters": {}}], "required", "tools"),
        ([7], "required", "tools"),
        ([{"function": 7}], "required", "tools"),
        ([{"name": "f", "parameters": []}], "required", "tools"),
        ([{"name": "f", "parameters": {"type": "string"}}], "required", "tools"),
        ([{"name": "f", "parameters": {"type": ["array", "null"]}}], "auto", "tools"),
        ([{"name": "f", "parameters": {"type": None}}], "f", "tools"),
        ([{"name": "f"}], "g", "tool_choice"),
    ],
)
def test_wrong_tools_are_refused_by_name(tools, choice, param):
    with pytest.raises(RequestError) as err:
        tool_grammar(tools, choice)
    assert err.value.param == param
