"""Tool calls as a grammar: calls in the text form of the chat template, arguments by schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError
from .spec import StructuredOutputs, ToolGrammar, ToolSchema

MAX_TOOLS = 128
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def tool_grammar(
    tools: Sequence[Mapping[str, Any]],
    choice: str,
    *,
    parallel: bool = True,
    only: bool = False,
    answer: StructuredOutputs | None = None,
) -> StructuredOutputs | None:
    """What `tool_choice` enforces: "required", "auto", or the name of the one tool to call.

    `tools` are OpenAI's, `{"type": "function", "function": {"name", "parameters", "strict"}}`, or
    the functions themselves. "required" and a name begin with a call from the first token on.
    Under "auto" free text and calls may follow each other, arguments of a tool that is not strict
    are any object, and None is returned where nothing is to be enforced. `only` keeps the names to
    these tools; `answer` is what an answer without calls must be. A named tool is called once;
    others more than once where `parallel`. Raises `RequestError` (`param` "tools" or
    "tool_choice").
    """
    listed = _listed(tools)
    if choice == "auto":
        if parallel and not only and answer is None and not any(tool.strict for tool in listed):
            return None
        free = (t if t.strict else ToolSchema(name=t.name, parameters=ANY_OBJECT) for t in listed)
        grammar = ToolGrammar(tools=tuple(free), required=False, parallel=parallel, answer=answer)
    elif choice == "required":
        grammar = ToolGrammar(tools=listed, parallel=parallel)
    else:
        named = tuple(tool for tool in listed if tool.name == choice)
        if not named:
            raise RequestError(
                f"`tool_choice` names `{choice[:64]}`, which is none of the tools",
                param="tool_choice",
            )
        grammar = ToolGrammar(tools=named, parallel=False)
    return StructuredOutputs(tools=grammar)


def _listed(tools: Sequence[Mapping[str, Any]]) -> tuple[ToolSchema, ...]:
    if not tools or len(tools) > MAX_TOOLS:
        raise RequestError(f"`tools` must list 1 to {MAX_TOOLS} tools", param="tools")
    listed = [_tool(tool, i) for i, tool in enumerate(tools)]
    names = [tool.name for tool in listed]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"`tools` lists `{twice[:64]}` twice", param="tools")
    return tuple(listed)


def _tool(tool: Any, i: int) -> ToolSchema:
    function: Any = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    if not isinstance(function, Mapping):
        function = {}
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise RequestError(f"`tools[{i}]`: a function needs a `name`", param="tools")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = ANY_OBJECT
    if not isinstance(parameters, Mapping):
        raise RequestError(f"`tools[{i}]`: `parameters` must be a JSON schema", param="tools")
    # Arguments are an object, whatever else a schema would allow.
    kind = parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise RequestError(
            f'`tools[{i}]`: `parameters` must be a schema of `type` "object"', param="tools"
        )
    parameters = {**parameters, "type": "object"}
    return ToolSchema(name=name, parameters=parameters, strict=function.get("strict") is True)
