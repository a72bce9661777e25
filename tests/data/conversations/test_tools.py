"""Tools and calls, given as objects or as JSON in a text."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ling.data.conversations.fields import RecordError
from ling.data.conversations.tools import read_arguments, read_call, read_tools

BARE = {"name": "f", "description": "d", "parameters": {"type": "object"}}
WRAPPED = {"type": "function", "function": BARE}


@pytest.mark.parametrize(
    "tool", [BARE, WRAPPED, {"function": BARE}, {**BARE, "type": "function"}, json.dumps(BARE)]
)
@pytest.mark.parametrize("given_as", [list, lambda tools: json.dumps(list(tools))])
def test_tools_are_wrapped(tool, given_as):
    assert read_tools(given_as([tool]), "tools") == [WRAPPED]


@pytest.mark.parametrize("value", [None, "", " ", "[]", "null", []])
def test_no_tools_in_all_forms(value):
    assert read_tools(value, "tools") is None


@pytest.mark.parametrize("value", [None, "", "[]", "null", [], {}])
def test_no_arguments_in_all_forms(value):
    assert read_arguments(value, "a") == {}


@pytest.mark.parametrize(
    "value",
    [
        "{",
        "[1]",
        "3",
        "x",
        3,
        ["a"],
        '{"a": NaN}',
        {"a": math.nan},
        '{"a": 1, "a": 2}',
        {"a": b"x"},
    ],
)
def test_arguments_that_are_no_object_are_refused(value):
    with pytest.raises(RecordError, match="`a`"):
        read_arguments(value, "a")


OBJECTS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    min_size=1,
)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1]))
def test_arguments_in_a_text_are_kept_byte_for_byte(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert read_arguments(text, "a") == text
    assert read_arguments(value, "a") == value


@pytest.mark.parametrize("call", [None, "", {}, {"name": 3}, {"function": {}}, "[]", 3])
def test_a_call_without_a_name_is_refused(call):
    with pytest.raises(RecordError, match="expected a `name`"):
        read_call(call, "calls[0]")
