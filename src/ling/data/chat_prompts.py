"""Conversations as prompts: the template of a tokenizer, or why there can be no chat."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError, TemplateError
from .chat import ChatPrompt, ChatTemplate, builtin_template, continuing, encode_chat
from .tokenizer import Tokenizer

log = logging.getLogger("ling.llm")


class ChatPrompts:
    """Renders conversations by the template of `tokenizer`, or the packaged one where it has none.

    Without a tokenizer, or with a template that does not compile, each call raises what is wrong:
    texts go in and out all the same.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._template = None if tokenizer is None else _template_or_error(tokenizer)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **template_kwargs: Any,
    ) -> str:
        """The conversation as the model reads it."""
        if self._template is None:
            raise RequestError(
                "this model has no tokenizer: it takes token ids, not messages", param="messages"
            )
        if isinstance(self._template, TemplateError):
            raise self._template
        return self._template.render(messages, tools, add_generation_prompt, **template_kwargs)

    def prompt(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        opened: bool | None = None,
        continued: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> ChatPrompt:
        """Text and ids: `opened` begins a turn of the assistant, `continued` leaves its last
        message open; None opens one where none is continued."""
        if self._tokenizer is None:
            self.render(messages, tools)  # raises
        assert self._tokenizer is not None
        if continued:
            _check_continued(messages, opened)
        render = continuing(self.render) if continued else self.render
        opened = not continued if opened is None else opened
        return encode_chat(
            render, self._tokenizer, messages, tools, opened, **(template_kwargs or {})
        )


def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a tokenizer's folder, or the packaged one; `TemplateError` for one that
    cannot be used."""
    if tokenizer.template_problem is not None:
        raise TemplateError(f"chat template: {tokenizer.template_problem}")
    source = tokenizer.chat_template or builtin_template("chat")
    return ChatTemplate(source, tokenizer.template_variables)


def _template_or_error(tokenizer: Tokenizer) -> ChatTemplate | TemplateError:
    try:
        return template_of(tokenizer)
    except TemplateError as err:
        log.info("%s; this model can continue texts, but not chat", err)
        return err


def _check_continued(messages: Sequence[dict[str, Any]], opened: bool | None) -> None:
    if opened:
        raise RequestError(
            "`continue_final_message` and `add_generation_prompt` cannot both be true",
            param="continue_final_message",
        )
    if not messages or messages[-1].get("role") != "assistant":
        raise RequestError(
            "`continue_final_message` needs a last message of the assistant", param="messages"
        )
