"""The text that the released models were fine-tuned on, which is not that of their chat template.

It differs where it can be seen: a line end before a tool list or `detailed thinking off` without a
system message, calls that replace the content beside them, arguments given as text in quotes, no
reasoning, no system message but the first, and `<|endoftext|>` learned at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import TemplateError
from ..chat import LING_TURN, TurnMarks
from ..history import plain_message, plain_tool
from ..tokenizer_vocab import EOD

_END, _ANSWER = "<|role_end|>", "<role>ASSISTANT</role>"
_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_CALLS = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


class MegatronTemplate:
    """The training's own text, as a template that has no generation prompt of its own: what is
    asked ends with it.
    """

    ending = EOD
    pieces_alone = True
    source = "megatron"

    def turn_marks(self, messages: Sequence[dict[str, Any]]) -> TurnMarks:
        """No turn depends on another."""
        return LING_TURN

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **_: Any,
    ) -> str:
        """Raises `TemplateError` unless questions and answers alternate.

        With `add_generation_prompt` the last one is a question, otherwise an answer.
        """
        segments = list(self.segments(messages, tools))
        answers = [text for said, text in segments if said]
        alternates = all(said == bool(k % 2) for k, (said, _) in enumerate(segments))
        if not alternates or len(segments) != 2 * len(answers) + add_generation_prompt:
            raise TemplateError(
                "template `megatron`: questions (user or tool) and answers must alternate, and end "
                f"with {'a question' if add_generation_prompt else 'an answer'}"
            )
        return "".join(text for _, text in segments)

    def segments(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None
    ) -> Iterator[tuple[bool, str]]:
        """(whether the assistant says it, text) of each segment."""
        plain = [plain_message(m, i) for i, m in enumerate(messages)]
        head = _head(plain, tools)
        results: list[str] = []
        start = bool(plain) and plain[0]["role"] == "system"
        for i, message in enumerate(plain[start:], start):
            role, content = message["role"], message["content"]
            if role != "tool" and results:
                yield False, head + _observation("".join(results))
                head, results = "", []
            if role == "tool":
                results.append(f"\n<tool_response>\n{content}\n</tool_response>")
            elif role == "assistant":
                yield True, (_calls(message) or content) + _END
            elif role in ("user", "observation"):
                shown = _observation(content) if role == "observation" else _human(content)
                yield False, head + shown
                head = ""
            else:
                raise TemplateError(f"template `megatron`: messages[{i}] has the role `{role}`")
        if results:
            yield False, head + _observation("".join(results))


def _head(messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]] | None) -> str:
    has_system = bool(messages) and messages[0]["role"] == "system"
    system = messages[0]["content"] if has_system else ""
    if tools:
        plain = (plain_tool(t, i) for i, t in enumerate(tools))
        listed = "\n".join(json.dumps(t, ensure_ascii=False) for t in plain)
        system += f"\n{_TOOLS}{listed}{_CALLS}"
    return f"<role>SYSTEM</role>{system}\ndetailed thinking off{_END}"


def _human(content: str) -> str:
    return f"<role>HUMAN</role>{content}{_END}{_ANSWER}"


def _observation(content: str) -> str:
    return f"<role>OBSERVATION</role>{content}{_END}{_ANSWER}"


def _calls(message: dict[str, Any]) -> str:
    calls = (call.get("function", call) for call in message.get("tool_calls") or [])
    texts = (json.dumps(function, ensure_ascii=False) for function in calls)
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)
