from __future__ import annotations

import json
import time
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ling.data.assistant import (
    AssistantMessage,
    AssistantParser,
    ContentDelta,
    ReasoningDelta,
    ToolCall,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    fold,
    parse_assistant,
)
from ling.data.chat import CHAT_TEMPLATE, ChatTemplate

REPLIES = json.loads((Path(__file__).parent / "replies" / "tool_calls.json").read_text("utf-8"))
MODES = ("none", "auto", "open")
# Parts of replies, sound and broken, that the machine has to tell apart.
PARTS = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<", "</", "<tool_", "call>", "<th"),
    *("{", "}", "[", "]", '"', ",", ":", "\\", "\\\\", '\\"', "\\n", "\\u00e9", "\\ud83e", "\\u"),
    *('"name"', '"arguments"', '"function"', '"f"', '"name": "f"', '"arguments": {}', '"a": 1'),
    *('"arguments": "{', '\\udd8a"', "null", "1.0", "```", "```json\n", "\n", " ", "a", "é🦊"),
    '<tool_call>\n{"name": "f", "arguments": {"a": "',
    '{"name": "g", "arguments": ',
    '"}}\n</tool_call>',
]
replies = st.lists(st.sampled_from(PARTS), max_size=14).map("".join) | st.text(max_size=20)


def parse(pieces, mode, parse_tools=True):
    parser = AssistantParser(parse_tools=parse_tools, reasoning=mode)
    return [e for piece in pieces for e in parser.push(piece)] + parser.finish()


def joined(events):
    """The events with neighbouring texts of one kind as one."""

    def kind(event):
        return type(event), getattr(event, "index", None), isinstance(event, ToolCallEnd)

    made = []
    for _, group in groupby(events, kind):
        first, *rest = group
        if hasattr(first, "text"):
            text = "".join(e.text for e in (first, *rest))
            made.append((type(first), getattr(first, "index", None), text))
        else:
            assert not rest
            made.append(first)
    return made


def check_every_cut(text, mode, parse_tools=True):
    whole = joined(parse([text], mode, parse_tools))
    assert joined(parse(text, mode, parse_tools)) == whole, "by characters"
    for at in range(len(text) + 1):
        assert joined(parse([text[:at], text[at:]], mode, parse_tools)) == whole, at
    return whole


@settings(max_examples=300, deadline=None)
@given(replies, st.sampled_from(MODES), st.booleans())
def test_every_cut_of_a_text_gives_the_same_events(text, mode, parse_tools):
    check_every_cut(text, mode, parse_tools)


@settings(max_examples=200, deadline=None)
@given(st.lists(replies, max_size=5), st.sampled_from(MODES))
def test_any_pieces_give_what_the_whole_text_gives(pieces, mode):
    assert joined(parse(pieces, mode)) == joined(parse(["".join(pieces)], mode))


@pytest.mark.parametrize("reply", REPLIES, ids=lambda r: r["name"])
def test_replies_that_were_reported_as_broken(reply):
    mode = reply.get("mode", "auto")
    check_every_cut(reply["text"], mode)
    assert parse_assistant(reply["text"], parse_tools=True, reasoning=mode) == AssistantMessage(
        reply["content"], reply.get("reasoning"), [ToolCall(*c) for c in reply["tool_calls"]]
    )


@settings(max_examples=200, deadline=None)
@given(replies, st.sampled_from(MODES))
def test_events_come_in_an_order_that_clients_can_follow(text, mode):
    is_open, number, has_begun = False, 0, False
    for event in parse([text], mode):
        if isinstance(event, ReasoningDelta):
            assert event.text
            assert not has_begun
            continue
        has_begun = True
        if isinstance(event, ToolCallStart):
            assert not is_open
            assert event.index == number
            assert event.name
            is_open = True
        elif isinstance(event, ContentDelta):
            assert event.text
            assert not is_open
        else:
            assert is_open
            assert event.index == number
            if isinstance(event, ToolCallEnd):
                is_open, number = False, number + 1
    assert not is_open


@settings(max_examples=200, deadline=None)
@given(replies, st.sampled_from(MODES))
def test_whole_calls_are_counted_and_have_arguments_that_parse(text, mode):
    parser = AssistantParser(parse_tools=True, reasoning=mode)
    message = fold([*parser.push(text), *parser.finish()])
    whole = [c for c in message.tool_calls if c.is_whole]
    assert parser.num_whole_calls == len(whole)
    for call in whole:
        json.loads(call.arguments)


# JSON has neither.
FINITE = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text() | st.sampled_from(PARTS), json_values, max_size=3)
names = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters='"\\'), min_size=1
)
# A content that the template writes, and that does not look like markup itself.
contents = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="<")).map(
    lambda text: text.strip()
)


@settings(max_examples=150, deadline=None)
@given(
    contents,
    contents,
    st.lists(st.tuples(names, objects | objects.map(json.dumps)), max_size=3),
)
def test_what_the_template_renders_is_read_back(content, reasoning, calls):
    message = {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": [{"function": {"name": n, "arguments": a}} for n, a in calls],
    }
    template, user = ChatTemplate(CHAT_TEMPLATE), {"role": "user", "content": "q"}
    prompt = template.render([user])
    text = template.render([user, message], add_generation_prompt=False)
    assert text.startswith(prompt)
    reply = text[len(prompt) :].removesuffix("<|role_end|>")
    texts = [a if isinstance(a, str) else json.dumps(a, ensure_ascii=False) for _, a in calls]
    assert parse_assistant(reply, parse_tools=True, reasoning="auto") == AssistantMessage(
        content or None,
        reasoning.strip("\n") or None,
        [ToolCall(n, a) for (n, _), a in zip(calls, texts, strict=True)],
    )


def test_content_leaves_as_soon_as_it_cannot_be_a_tag():
    parser = AssistantParser(parse_tools=True, reasoning="auto")
    assert parser.push("Hi ") == [ContentDelta("Hi ")]
    assert parser.push("<tool_call") == []
    assert parser.push("s>") == [ContentDelta("<tool_calls>")]
    assert parser.push(" a <") == [ContentDelta(" a ")]
    assert parser.push(" b\n") == [ContentDelta("< b")]
    assert parser.push("\nc") == [ContentDelta("\n\nc")]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("<>/_tol calthink\na")))
def test_at_most_a_newline_and_half_a_tag_wait(text):
    parser = AssistantParser(parse_tools=True, reasoning="none")
    shown = ""
    for k, char in enumerate(text):
        shown += "".join(e.text for e in parser.push(char))
        so_far = text[: k + 1]
        assert so_far.startswith(shown)
        if so_far.strip():
            assert len(so_far) - len(shown) <= len("\n<tool_call>") - 1


def test_arguments_leave_as_they_come():
    parser = AssistantParser(parse_tools=True, reasoning="auto")
    assert parser.push('<tool_call>\n{"name": "f') == []
    assert parser.push('", "arguments": {"a') == [
        ToolCallStart(0, "f"),
        ToolCallArguments(0, '{"a'),
    ]
    assert parser.push('": [1, "') == [ToolCallArguments(0, '": [1, "')]
    assert parser.push('</tool_call>"]}') == [ToolCallArguments(0, '</tool_call>"]}')]
    assert parser.push("}") == [ToolCallEnd(0, True)]
    assert parser.push("\n</tool_call>") == []
    assert parser.finish() == []
    assert parser.num_whole_calls == 1


def test_without_tools_calls_stay_in_the_content():
    text = 'a\n<tool_call>\n{"name": "f"}\n</tool_call>'
    assert parse_assistant(text, parse_tools=False, reasoning="auto").content == text


HEAVY = {
    "prose": "Plain words, a < b. ",
    "angles": "<",
    "opening tags": "<tool_call>",
    "opening tags and braces": "<tool_call>{",
    "opening tags and quotes": '<tool_call>{"',
    "tags inside of keys": '<tool_call>{"k<tool_call>{":":":"',
    "calls without a name": '<tool_call>{"x": "y"}</tool_call>',
    "calls": '<tool_call>{"name": "f", "arguments": {"city": "Oslo"}}</tool_call>\n',
    "white space": " \n",
    "closing tags": "</tool_call>",
    "thinking": "<think>x</think>\n",
}
INSIDE = {"brackets": "[", "lists": "[],", "quotes": '"', "escapes": "\\n", "broken": "\n<"}


@pytest.mark.parametrize("name", [*HEAVY, *INSIDE])
@pytest.mark.parametrize("size", [1 << 30, 50])
def test_time_is_linear(name, size):
    """A megabyte in CPU seconds, with a factor of ten over what is measured for the worst."""
    text = HEAVY.get(name) or INSIDE[name]
    text *= (1 << 18) // len(text)
    if name in INSIDE:
        text = '<tool_call>{"name": "f", "arguments": ["' + text
    began = time.process_time()
    parse((text[i : i + size] for i in range(0, len(text), size)), "auto")
    assert 4 * (time.process_time() - began) < 15
