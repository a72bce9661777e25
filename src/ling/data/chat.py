"""Chat templates: messages to text, in a sandbox, from code that came with a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import TemplateError as JinjaError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import TemplateError

MAX_OUTPUT = 1 << 20
MAX_SOURCE = 1 << 18
Messages = Sequence[dict[str, Any]]


def builtin_template(name: str) -> str:
    """Source of a packaged template: `chat` or `base`."""
    return (resources.files(__package__) / "templates" / f"{name}.jinja").read_text("utf-8")


class _Sandbox(ImmutableSandboxedEnvironment):
    """No attribute tricks, no loader, and no multiplication that makes huge strings or numbers."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "**" or not numbers:
            raise TemplateError(f"`{operator}` is not allowed in a chat template here")
        return left * right


class ChatTemplate:
    """A compiled template; raises `TemplateError` with one line."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"chat template: longer than {MAX_SOURCE} characters")
        env = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        env.filters["tojson"] = _to_json
        env.globals["raise_exception"] = _raise
        try:
            self._template = env.from_string(source)
        except (JinjaError, RecursionError) as err:
            raise TemplateError(f"chat template: {err}") from None

    def render(
        self,
        messages: Messages,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """Text of the conversation; text parts of a content list are joined first."""
        plain = [_plain(m, i) for i, m in enumerate(messages)]
        pieces, size = [], 0
        try:
            for piece in self._template.generate(
                messages=plain, tools=tools, add_generation_prompt=add_generation_prompt
            ):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_OUTPUT:
                    raise TemplateError(f"chat template: output is longer than {MAX_OUTPUT}")
        except TemplateError:
            raise
        except Exception as err:  # template code of anyone's making can fail in any way
            raise TemplateError(
                f"chat template: {str(err).splitlines()[0] if str(err) else type(err).__name__}"
            ) from None
        return "".join(pieces)


def _plain(message: Any, i: int) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise TemplateError(f"messages[{i}]: expected an object with a `role`")
    content = message.get("content")
    if isinstance(content, list):
        parts = []
        for part in content:
            if (
                not isinstance(part, dict)
                or part.get("type") != "text"
                or not isinstance(part.get("text"), str)
            ):
                raise TemplateError(f"messages[{i}].content: only text parts can be read")
            parts.append(part["text"])
        return {**message, "content": "".join(parts)}
    if content is None and message["role"] in ("user", "system"):
        raise TemplateError(f"messages[{i}].content: expected text")
    if content is not None and not isinstance(content, str):
        raise TemplateError(f"messages[{i}].content: expected text or a list of parts")
    return message


def _to_json(value: Any, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _raise(message: str) -> None:
    raise TemplateError(str(message))
