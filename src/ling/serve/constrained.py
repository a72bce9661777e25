"""What an answer must be, as a grammar."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..text import printable
from .conversation import Conversation, ToolName
from .problems import request_id

log = logging.getLogger("ling.serve")

IGNORED_HEADER = "x-ling-ignored-schema-keywords"
MAX_HEADER = 1000

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


def compiled(llm: LLM, spec: StructuredOutputs, reasoning: Reasoning, param: str) -> Sequence[str]:
    """Compile before anything is queued: what cannot be enforced is refused, and never left out.

    Blocks; returns the keywords of schemas that are not enforced. Raises `RequestError` with
    `param`, the field that asked for it.
    """
    if spec.tools is not None and spec.tools.answer is not None:
        compiled(llm, spec.tools.answer, reasoning, param)  # so that the field is named
    from ..grammar.spec import PARAM

    try:
        return llm.compile(spec, reasoning).ignored
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
