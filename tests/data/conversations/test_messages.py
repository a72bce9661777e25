"""Lists of messages in the spellings people use."""

from __future__ import annotations

import pytest

from ling.data.conversations.fields import RecordError
from ling.data.conversations.messages import ROLES, Tags, check_order, read_turns

ASK, SAY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def one(message, tags=Tags()):  # noqa: B008
    return read_turns([message], "m", tags).messages[0]


@pytest.mark.parametrize("role", ["tool", "observation", "function", "tool_response"])
def test_results_of_tools_have_several_names(role):
    message = {"role": role, "content": "r", "name": "f", "tool_call_id": "c", "extra": 1}
    assert one(message) == {"role": "tool", "content": "r", "name": "f", "tool_call_id": "c"}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_several_names(key):
    assert one({**SAY, key: "r"}) == {**SAY, "reasoning_content": "r"}


def test_reasoning_in_the_content_stays_there():
    text = "<think>\nr\n</think>\n\na"
    assert one({**SAY, "content": text}) == {"role": "assistant", "content": text}


def test_reasoning_given_twice_must_agree():
    with pytest.raises(RecordError, match="contradicts"):
        one({**SAY, "reasoning": "a", "thinking": "b"})


def test_calls_of_a_message_keep_arguments_in_a_text_as_they_are():
    text = '{"b" : 1.50,\n "a": "\\u00e9"}'
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": text}},
        {"name": "g", "arguments": {"z": 1, "a": 2}},
    ]
    message = one({"role": "assistant", "content": None, "tool_calls": calls})
    assert message["content"] == ""
    assert [c["function"] for c in message["tool_calls"]] == [
        {"name": "f", "arguments": text},
        {"name": "g", "arguments": {"z": 1, "a": 2}},
    ]
    assert message["tool_calls"][0]["id"] == "c1"


def test_an_older_function_call_is_a_call():
    message = one({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}})
    assert message["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


def test_a_call_turn_may_hold_several_and_reasoning_before_them():
    text = '<think>\nr\n</think>\n\n[{"name": "f", "arguments": {}}, {"name": "g"}]'
    message = one({"from": "function_call", "value": text})
    assert message["reasoning_content"] == "r"
    assert [c["function"]["name"] for c in message["tool_calls"]] == ["f", "g"]


@pytest.mark.parametrize("text", ["", "[]", "no JSON", "{}", '["f"]', "3"])
def test_a_call_turn_without_a_call_is_refused(text):
    with pytest.raises(RecordError, match=r"m\[0\].value"):
        one({"from": "function_call", "value": text})


def test_tags_win_over_the_usual_names():
    roles = {**ROLES, "assistant": "user", "bot": "assistant"}
    tags = Tags("speaker", "says", roles)
    messages = [{"speaker": "assistant", "says": "q"}, {"speaker": "bot", "says": "a"}]
    assert read_turns(messages, "m", tags).messages == [ASK, SAY]


def test_text_parts_are_joined():
    parts = ["a", {"type": "text", "text": "b"}, {"type": "text", "value": "c"}]
    assert one({"role": "user", "content": parts})["content"] == "abc"


def test_parts_out_of_order_are_refused():
    parts = [{"type": "text", "value": "a"}, {"type": "reasoning", "value": "r"}]
    with pytest.raises(RecordError, match="reasoning behind text"):
        one({"role": "assistant", "content": parts})


def test_reasoning_of_others_than_the_assistant_is_refused():
    with pytest.raises(RecordError, match="not only text"):
        one({"role": "user", "content": [{"type": "reasoning", "value": "r"}]})


def test_a_weight_on_a_question_is_told():
    turns = read_turns([{**ASK, "weight": 1}, SAY], "m", Tags())
    assert turns.in_loss == [False, True]
    assert "only answers" in turns.notes[0]


def test_an_empty_answer_is_told():
    assert "empty answer" in read_turns([ASK, {**SAY, "content": ""}], "m", Tags()).notes[0]


def test_a_system_message_may_stand_before_an_answer():
    check_order(read_turns([{"role": "system", "content": "s"}, SAY], "m", Tags()), "m")
