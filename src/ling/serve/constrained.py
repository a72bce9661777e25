"""What an answer must be, as a grammar."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..text import printable
from .conversation import Conversation, ToolName
from .problems import request_id

log = logging.getLogger("ling.serve")

IGNORED_HEADER = "x-ling-ignored-schema-keywords"
MAX_HEADER = 1000

if TYPE_CHECKING:
    from ..grammar.spec import StructuredOutputs


def constraint_of(conversation: Conversation) -> StructuredOutputs | None:
    """The grammar that enforces what was asked, None where every answer will do.

    Calls are parsed, not enforced, unless they are demanded, limited, or to be exact.
    """
    choice, tools = conversation.tool_choice, conversation.callable_tools
    if choice == "none" or not tools:
        return conversation.structured
    if choice == "auto" and not _limits_calls(conversation):
        return None
    from ..grammar.tools import tool_grammar

    named = choice.name if isinstance(choice, ToolName) else choice
    return tool_grammar(tools, named, parallel=conversation.parallel_tool_calls)


def _limits_calls(conversation: Conversation) -> bool:
    """Whether calls that the model may make are not to be just any."""
    tools = conversation.callable_tools
    return (
        len(tools) < len(conversation.tools or [])
        or any(tool["function"].get("strict") for tool in tools)
        or not conversation.parallel_tool_calls
        or conversation.structured is not None
    )


def ignored_header(keywords: Sequence[str]) -> dict[str, str] | None:
    """The header that names what is not enforced of a schema, and a log line; None for nothing."""
    if not keywords:
        return None
    # A client's own words: neither a header nor a line may be forged with them.
    named = printable(", ".join(keywords)).encode("ascii", "replace").decode()[:MAX_HEADER]
    log.warning("%s these keywords of the schema are not enforced: %s", request_id.get(), named)
    return {IGNORED_HEADER: named}
