from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ling.data.assistant_events import ToolCall, ToolCallArguments, ToolCallEnd, ToolCallStart
from ling.data.tool_calls import ToolCallParser, read_tool_calls

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>'
F = ToolCall("f", '{"a": "é"}')


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (CALL, [F]),
        ("Text first.\n" + CALL, [F]),
        (CALL + "\n" + CALL + " \n", [F, F]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1.50}}</tool_call>', [("f", '{"a": 1.5}')]),
        (
            '<tool_call>{"name": "f", "arguments": "\\u00e9</tool_call>"}</tool_call>',
            [("f", '"é</tool_call>"')],
        ),
        ("", None),
        ("no call", None),
        (CALL + " and more", None),
        (CALL + "<tool_call>{}</tool_call>", None),
        (CALL + "\n<tool_call>{'name': 1}</tool_call>", None),
        ('<tool_call>{"name": "f"}</tool_call>', None),
        ('<tool_call>{"name": 1, "arguments": {}}</tool_call>', None),
        ("<tool_call>[]</tool_call>", None),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", None),
    ],
)
def test_whole_texts_have_sound_calls_or_are_text(text, calls):
    if calls is None:
        assert read_tool_calls(text) == text
    else:
        assert read_tool_calls(text) == [
            c if isinstance(c, ToolCall) else ToolCall(*c) for c in calls
        ]


def by_the_rule(text):
    """The rule as the original code states it, in one expression that can take quadratic time."""
    spans = re.findall(
        r"<tool_call>(.*?)</tool_call>(?=\s*<tool_call>|\s*\Z)", text, flags=re.DOTALL
    )
    calls = []
    for span in spans:
        try:
            call = json.loads(span.strip())
            calls.append(ToolCall(call["name"], json.dumps(call["arguments"], ensure_ascii=False)))
        except (ValueError, KeyError, TypeError):
            return text
    return calls or text


PARTS = [
    "<tool_call>",
    "</tool_call>",
    CALL,
    '{"name": "g", "arguments": {}}',
    "{",
    "\n",
    " x",
    "<",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=10).map("".join))
def test_whole_texts_are_read_by_the_original_rule(text):
    assert read_tool_calls(text) == by_the_rule(text)


@pytest.mark.parametrize("part", ["<tool_call>", "</tool_call>", "</tool_call> \n", "<tool_call> "])
def test_whole_texts_are_read_in_linear_time(part):
    text = part * ((1 << 18) // len(part))
    began = time.process_time()
    assert read_tool_calls(text) == text
    assert time.process_time() - began < 1


def test_a_call_ends_with_its_json_not_with_its_tag():
    parser = ToolCallParser()
    assert parser.push('<tool_call>{"name": "f", "arguments": {"a": 1}}') == [
        ToolCallStart(0, "f"),
        ToolCallArguments(0, '{"a": 1}'),
        ToolCallEnd(0, True),
    ]


def test_nothing_is_said_before_the_name_is_known():
    parser = ToolCallParser()
    assert parser.push('<tool_call>{"arguments": {"a": 1}, "na') == []
    assert parser.push('me": "f"') == [ToolCallStart(0, "f"), ToolCallArguments(0, '{"a": 1}')]
    assert parser.finish() == [ToolCallEnd(0, False)]


def test_deep_arguments_are_passed_on():
    deep = "[" * 50_000 + "]" * 50_000
    parser = ToolCallParser()
    start, arguments, end = parser.push('<tool_call>{"name": "f", "arguments": ' + deep + "}")
    assert (start, arguments.text) == (ToolCallStart(0, "f"), deep)
    assert end == ToolCallEnd(0, False)  # JSON, but nobody could parse it


def test_long_numbers_are_json():
    parser = ToolCallParser()
    *_, end = parser.push('<tool_call>{"name": "f", "arguments": {"a": ' + "1" * 5000 + "}}")
    assert end == ToolCallEnd(0, True)
