"""What an answer must be, as a grammar."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..errors import RequestError
from ..text import printable
from .conversation import Conversation, ToolName
from .problems import request_id

log = logging.getLogger("ling.serve")

IGNORED_HEADER = "x-ling-ignored-schema-keywords"
MAX_HEADER = 1000

T = TypeVar("T")

if TYPE_CHECKING:
    from ..grammar.spec import Reasoning, StructuredOutputs
    from ..llm import LLM


def constraint_of(conversation: Conversation) -> StructuredOutputs | None:
    """The grammar that enforces what was asked, None where every answer will do.

    Calls are parsed, not enforced, unless they are demanded, limited, or to be exact.
    """
    choice, tools = conversation.tool_choice, conversation.callable_tools
    if choice == "none" or not tools:
        return conversation.structured
    from ..grammar.tools import tool_grammar

    return tool_grammar(
        tools,
        choice.name if isinstance(choice, ToolName) else choice,
        parallel=conversation.parallel_tool_calls,
        only=len(tools) < len(conversation.tools or []),
        answer=conversation.structured,
    )


def check_bounds(spec: StructuredOutputs, param: str) -> None:
    """Refuse what is too large, within milliseconds: schemas of tools are part of the prompt, and
    making the prompt of a large one takes seconds. Raises `RequestError` with `param`, the field
    that asked for it."""
    from ..grammar.bounds import check

    _naming_field(check, spec, param)


def compiled(llm: LLM, spec: StructuredOutputs, reasoning: Reasoning, param: str) -> Sequence[str]:
    """Compile before anything is queued: what cannot be enforced is refused, and never left out.

    Blocks; returns the keywords of schemas that are not enforced. Raises `RequestError` with
    `param`, the field that asked for it.
    """
    return _naming_field(lambda part: llm.compile(part, reasoning), spec, param).ignored


def _naming_field(act: Callable[[StructuredOutputs], T], spec: StructuredOutputs, param: str) -> T:
    """What `act` makes of it; its `RequestError` names the field of the request."""
    if spec.tools is not None and spec.tools.answer is not None:
        _naming_field(act, spec.tools.answer, param)  # this has a field of its own
    from ..grammar.spec import PARAM

    try:
        return act(spec)
    except RequestError as error:
        if error.param == PARAM:
            error.param = param if spec.tools is None else "tools"
        raise


def ignored_header(keywords: Sequence[str]) -> dict[str, str] | None:
    """The header that names what is not enforced of a schema, and a log line; None for nothing."""
    if not keywords:
        return None
    # A client's own words: neither a header nor a line may be forged with them.
    named = printable(", ".join(keywords)).encode("ascii", "replace").decode()[:MAX_HEADER]
    log.warning("%s these keywords of the schema are not enforced: %s", request_id.get(), named)
    return {IGNORED_HEADER: named}
