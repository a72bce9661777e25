"""Request fields without a meaning here: accepted, refused, or ignored with a log line."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import RequestError
from ..text import printable

log = logging.getLogger("ling.serve")

# Both tables are for fields that the class of a request does not name itself.
# Fields of the OpenAI API that change nothing here; their types are checked all the same.
IGNORED: dict[str, type] = {
    "user": str,
    "metadata": dict,
    "store": bool,
    "service_tier": str,
    "safety_identifier": str,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "parallel_tool_calls": bool,
    "reasoning_effort": str,
    "chat_template_kwargs": dict,
    "verbosity": str,
    "prediction": dict,
    "prompt_cache_options": dict,
    "include_reasoning": bool,
    "request_id": str,
}
# Fields that this server cannot honour, with the values that ask for nothing: some clients always
# send them.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "suffix": ("",),
    "prompt_logprobs": (),
    "chat_template": (),
    "continue_final_message": (False,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "truncate_prompt_tokens": (),
    "return_token_ids": (False,),
    "documents": ([],),
    "moderation": (),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "use_beam_search": (False,),
}
# What to send instead of some of them.
INSTEAD = {
    "functions": "tools",
    "function_call": "tool_choice",
    "prompt_logprobs": "echo` and `logprobs` of `/v1/completions",
}
_JSON_TYPES = {str: "string", dict: "object", bool: "boolean", int: "integer"}
# Names that have had their log line; bounded, since a client can make up any number of them.
_seen: set[str] = set()
MAX_SEEN = 256


def judge(name: str, value: Any) -> None:
    """Refuse a field that asks for something this server does not do; unknown ones are ignored."""
    if name not in IGNORED and name not in HARMLESS:
        say_ignored(name)
    elif value is None:
        return
    elif name in IGNORED:
        if type(value) is not IGNORED[name]:
            raise RequestError(f"`{name}`: expected {IGNORED[name].__name__}", param=name)
    # `1 == True` in Python, so types are compared too.
    elif not any(type(value) is type(h) and value == h for h in HARMLESS[name]):
        hint = f"; use `{INSTEAD[name]}`" if name in INSTEAD else ""
        raise RequestError(f"`{name}` is not supported by this server{hint}", param=name)


def say_ignored(name: str) -> None:
    """One log line for each name of a field that is not known here."""
    shown = printable(name[:80])
    if shown in _seen or len(_seen) >= MAX_SEEN:
        return
    _seen.add(shown)
    log.warning("the request field `%s` is not known here and is ignored", shown)


def json_properties() -> dict[str, Any]:
    """These fields in the published schema."""
    ignored = {name: {"type": [_JSON_TYPES[t], "null"]} for name, t in IGNORED.items()}
    refused = {name: {"enum": [*values, None]} for name, values in HARMLESS.items()}
    return {**ignored, **refused}
