"""What a tokenizer folder says, so that a server sends what training rendered, and stops there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import TemplateError
from ..chat import builtin_template
from ..tokenizer_vocab import END_OF_TURN
from .megatron import MegatronTemplate
from .rendered import TrainingTemplate

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

# The original training's own text, as a template for servers.
MEGATRON = "megatron"


def serve_as_trained(tokenizer: Tokenizer, template: TrainingTemplate) -> None:
    """Let `tokenizer` be saved with the template that is trained with, and with the id that ends a
    turn among those that end an answer."""
    tokenizer.chat_template, tokenizer.template_problem = served_template(template), None
    end = end_of_turn(tokenizer, template)
    if end is not None and end not in tokenizer.stop_token_ids:
        tokenizer.stop_token_ids = (*tokenizer.stop_token_ids, end)


def served_template(template: TrainingTemplate) -> str:
    """Its source, as other programs read it."""
    if isinstance(template, MegatronTemplate):
        return builtin_template(MEGATRON)
    return template.source


def end_of_turn(tokenizer: Tokenizer, template: TrainingTemplate) -> int | None:
    """The control token that the template writes behind an answer; `<|role_end|>` where it cannot
    be told."""
    said = "answer"
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": said}]
    try:
        _, _, behind = template.render(messages, None, False).rpartition(said)
    except TemplateError:
        behind = ""
    ids = tokenizer.encode(behind.lstrip(), parse_special=True)
    if ids and ids[0] in tokenizer.control_tokens.values():
        return ids[0]
    return tokenizer.token_to_id(END_OF_TURN)
