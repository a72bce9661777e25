from __future__ import annotations

import json

import pytest

from ling.data.chat import CHAT_TEMPLATE, ChatTemplate
from ling.errors import TemplateError

USER = {"role": "user", "content": "hi"}


def test_bare_functions_become_tools():
    template = ChatTemplate("{{ tools | tojson }}")
    bare = {"name": "f", "description": "d", "parameters": {"b": 1, "a": 2}}
    wrapped = {"type": "function", "function": bare}
    other = {"type": "web_search", "x": 1}
    tools = [bare, {"type": "function", **bare}, wrapped, other]
    assert template.render([USER], tools) == json.dumps([wrapped, wrapped, wrapped, other])


@pytest.mark.parametrize("arguments", [{"b": 1, "a": "é"}, '{"b":  1}', "broken", ["x"]])
def test_arguments_are_rendered_in_their_order_and_texts_as_they_are(arguments):
    for call in ({"name": "f", "arguments": arguments}, {"arguments": arguments, "name": "f"}):
        for message in ({"tool_calls": [call]}, {"tool_calls": [{"id": "c", "function": call}]}):
            text = ChatTemplate(CHAT_TEMPLATE).render(
                [USER, {"role": "assistant", "content": None, **message}]
            )
            written = arguments
            if not isinstance(arguments, str):
                written = json.dumps(arguments, ensure_ascii=False)
            call_text = f'<tool_call>\n{{"name": "f", "arguments": {written}}}\n</tool_call>'
            assert f"<role>ASSISTANT</role>{call_text}<|role_end|>" in text


@pytest.mark.parametrize("given", [{}, {"arguments": None}, {"arguments": ""}])
def test_a_call_without_arguments_is_rendered_with_none(given):
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", **given}}]}
    text = ChatTemplate(CHAT_TEMPLATE).render([USER, message])
    assert '{"name": "f", "arguments": {}}' in text


def test_results_of_tools_may_be_parts():
    parts = [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]
    results = [{"role": "tool", "tool_call_id": "c", "content": c} for c in (parts, None, "3")]
    text = ChatTemplate(CHAT_TEMPLATE).render([USER, *results], add_generation_prompt=False)
    each = "".join(f"\n<tool_response>\n{c}\n</tool_response>" for c in ("12", "", "3"))
    assert text.endswith(f"<role>OBSERVATION</role>{each}<|role_end|>")


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ({}, r"messages\[0\].tool_calls: expected a list of calls"),
        ([{"name": "f"}, 1], r"messages\[0\].tool_calls\[1\]: expected a `function` with a `name`"),
        ([{"function": {}}], r"messages\[0\].tool_calls\[0\]: expected a `function`"),
        ([{"function": "f"}], r"messages\[0\].tool_calls\[0\]: expected a `function`"),
    ],
)
def test_what_is_no_call_is_named(calls, words):
    with pytest.raises(TemplateError, match=words):
        ChatTemplate(CHAT_TEMPLATE).render([{"role": "assistant", "tool_calls": calls}])


@pytest.mark.parametrize("tool", ["f", {}, {"type": "function"}, {"name": 1}])
def test_what_is_no_tool_is_named(tool):
    with pytest.raises(TemplateError, match=r"tools\[0\]: expected"):
        ChatTemplate(CHAT_TEMPLATE).render([USER], [tool])
