"""A conversation with tools through a server, as a program with the `openai` client has it."""

from __future__ import annotations

from typing import Any

import openai

from ling.tools import BUILTIN, run

MOST_ROUNDS = 4


def tool_loop(
    url: str, model: str, question: str, tools: list[dict[str, Any]]
) -> tuple[list[str], openai.types.chat.chat_completion.Choice]:
    """Run the calls of built-in tools until there are none; returns what they gave, and the last
    reply."""
    messages: list[Any] = [{"role": "user", "content": question}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        for _ in range(MOST_ROUNDS):
            (choice,) = client.chat.completions.create(
                model=model, messages=messages, tools=tools, temperature=0
            ).choices
            if not choice.message.tool_calls:
                break
            messages.append(choice.message)
            for call in choice.message.tool_calls:
                result = run(BUILTIN[call.function.name], call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return [m["content"] for m in messages if isinstance(m, dict) and m["role"] == "tool"], choice
