"""Conversations as prompts, and what is raised where there can be none."""

from __future__ import annotations

import copy

import pytest

from ling.data.chat_prompts import ChatPrompts, template_of
from ling.errors import RequestError, TemplateError

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well,"}


def test_a_prompt_is_the_rendered_text_and_its_ids(tokenizer):
    chats = ChatPrompts(tokenizer)
    text, ids = chats.prompt([USER])[:2]
    assert text == chats.render([USER]) == template_of(tokenizer).render([USER])
    assert ids == tokenizer.encode(text, parse_special=True)
    assert len(chats.prompt([USER], opened=False).text) < len(text)


def test_the_last_message_is_continued(tokenizer):
    chats = ChatPrompts(tokenizer)
    assert chats.prompt([USER, ANSWER], continued=True).text.endswith("Well,")
    with pytest.raises(RequestError, match="a last message of the assistant"):
        chats.prompt([USER], continued=True)
    with pytest.raises(RequestError, match="cannot both be true"):
        chats.prompt([USER, ANSWER], opened=True, continued=True)


def test_without_a_tokenizer_or_a_template_the_reason_is_raised(tokenizer):
    for call in (ChatPrompts(None).render, ChatPrompts(None).prompt):
        with pytest.raises(RequestError, match="takes token ids, not messages"):
            call([USER])
    broken = copy.copy(tokenizer)
    broken.template_problem = "not UTF-8"
    for call in (ChatPrompts(broken).render, ChatPrompts(broken).prompt):
        with pytest.raises(TemplateError, match="chat template: not UTF-8"):
            call([USER])
