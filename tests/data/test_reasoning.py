from __future__ import annotations

import pytest

from ling.data.chat import CHAT_TEMPLATE, ChatTemplate
from ling.data.reasoning import ReasoningSplitter, reasoning_before_form, reasoning_mode

USER = {"role": "user", "content": "q"}


def split(text, mode):
    splitter = ReasoningSplitter(mode)
    parts = [splitter.push(c) for c in text] + [splitter.finish()]
    return tuple("".join(side) for side in zip(*parts, strict=True))


@pytest.mark.parametrize(
    ("mode", "text", "reasoning", "rest"),
    [
        ("auto", "<think>\n\na\nb\n\n</think>\n\n\nc\n", "a\nb", "c\n"),
        ("auto", " \n<think>a</think>b", "a", "b"),
        ("auto", "<think> a </think> b", " a ", " b"),
        ("auto", "x<think>a</think>b", "", "x<think>a</think>b"),
        ("auto", " \n", "", " \n"),
        ("auto", " \nx", "", " \nx"),
        ("auto", "<thin", "", "<thin"),
        ("auto", "<think>a</thin", "a</thin", ""),
        ("auto", "<think>a</think>b</think>c", "a", "b</think>c"),
        ("auto", "<think>a<think>b</think>c", "a<think>b", "c"),
        ("auto", "a</think>b", "", "a</think>b"),
        ("open", "a\n</think>\n\nb", "a", "b"),
        ("open", "\n\na</think>b", "a", "b"),
        ("open", "<think>\na</think>b", "a", "b"),
        ("open", "</think>b", "", "b"),
        ("open", "a\n\n", "a", ""),
        ("none", "<think>a</think>b", "", "<think>a</think>b"),
        ("none", "\n", "", "\n"),
    ],
)
def test_reasoning_and_the_rest(mode, text, reasoning, rest):
    assert split(text, mode) == (reasoning, rest)
    splitter = ReasoningSplitter(mode)
    first, last = splitter.push(text), splitter.finish()
    assert (first[0] + last[0], first[1] + last[1]) == (reasoning, rest)


def test_reasoning_leaves_as_it_comes():
    splitter = ReasoningSplitter("auto")
    assert splitter.push("<think>\nso") == ("so", "")
    assert splitter.push("\n\n") == ("", "")
    assert splitter.push("it < ") == ("\n\nit < ", "")
    assert splitter.push("\n</thin") == ("", "")
    assert splitter.push("k>\n\nyes") == ("", "yes")
    assert splitter.push("<think>") == ("", "<think>")


def test_prompt_and_request_say_how_a_reply_is_read():
    prompt = ChatTemplate(CHAT_TEMPLATE).render([USER])
    assert reasoning_mode(prompt) == "auto"
    assert reasoning_mode(prompt, thinking=False) == "auto"
    assert reasoning_mode(prompt, thinking=True) == "open"
    assert reasoning_mode(prompt + "<think>\n") == "open"
    assert reasoning_mode(prompt + "<think>\n\n</think>\n\n") == "auto"
    assert reasoning_mode(prompt + "<think>\n\n</think>\n\n", thinking=True) == "auto"
    assert reasoning_mode(prompt, continued="") == "auto"
    assert reasoning_mode("x", continued="<think>\nI") == "open"
    assert reasoning_mode("x", continued="<think>\nI</think>yes") == "none"
    assert reasoning_mode("x", continued="yes") == "none"


def test_prompt_and_request_say_where_reasoning_may_come_before_a_form():
    prompt = ChatTemplate(CHAT_TEMPLATE).render([USER])
    assert reasoning_before_form(prompt, thinking=False) == "none"
    assert reasoning_before_form(prompt, thinking=True) == "auto"
    assert reasoning_before_form(prompt + "<think>\n", thinking=False) == "open"
