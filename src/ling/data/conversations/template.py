"""The template that training renders with: by default that of a server of the same model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from ..chat import ChatTemplate
from ..chat_prompts import template_of
from .megatron import MegatronTemplate
from .rendered import TrainingTemplate

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer


def open_template(name: str | None, tokenizer: Tokenizer) -> TrainingTemplate:
    """`megatron`, the template in a file, or by default the model's own.

    Raises `UsageError` for a file that cannot be read, `TemplateError` for a template that cannot
    be used.
    """
    if name == "megatron":
        return MegatronTemplate()
    if name is not None:
        return ChatTemplate(_source(Path(name)), tokenizer.template_variables)
    return template_of(tokenizer)


def _source(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "not UTF-8"
        raise UsageError(
            f"template {path}: {reason}; expected a file or the word `megatron`"
        ) from None
