"""What an answer may be, as a caller says it. Names are vLLM's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ..data.reasoning import ReasoningMode
from ..errors import RequestError

PARAM = "structured_outputs"
Reasoning = ReasoningMode
"""Where reasoning may come before the answer: nowhere; in a leading `<think>` block; or the prompt
ended inside of such a block."""
REASONING: tuple[str, ...] = get_args(Reasoning)

_KINDS = ("json", "json_object", "regex", "choice", "grammar", "tools")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSchema:
    """A tool that may be called: its name and the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolGrammar:
    """Calls in the text form of the chat template (see `tools.tool_grammar`)."""

    tools: tuple[ToolSchema, ...]
    required: bool = True
    """False: free text may come before, between and after the calls, or no call at all."""
    parallel: bool = True
    """False: at most one call."""
    answer: StructuredOutputs | None = None
    """Where no call is required: what an answer without calls must be. Then there is no free text:
    the answer is either that, or calls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StructuredOutputs:
    """What an answer may be; exactly one of its kinds is given. Raises `RequestError`.

    An answer that ends with the `finish_reason` "stop" is of that kind; one that was cut by
    `max_tokens` or a stop string is the beginning of one.
    """

    json: str | Mapping[str, Any] | bool | None = None
    """A JSON schema, as text or as an object; properties come in the order that it names them."""
    json_object: bool = False
    """Any JSON object."""
    regex: str | None = None
    """All of the answer matches; no look-around, no back references."""
    choice: Sequence[str] | None = None
    """One of these texts."""
    grammar: str | None = None
    """A Lark grammar, in the dialect of llguidance."""
    tools: ToolGrammar | None = None
    strict: bool = False
    """True: a schema keyword that cannot be enforced is an error that names it. False: it is
    ignored, and the compiled grammar lists it (`Grammar.ignored`)."""

    def __post_init__(self) -> None:
        given = [kind for kind in _KINDS if getattr(self, kind) not in (None, False)]
        if self.json is False:
            raise RequestError("`json` is the schema `false`, which no value has", param=PARAM)
        if len(given) != 1:
            what = " and ".join(f"`{kind}`" for kind in given) or "none"
            raise RequestError(
                f"`{PARAM}` needs exactly one of {', '.join(_KINDS)}; given: {what}", param=PARAM
            )
        self._check_type(given[0])

    def _check_type(self, kind: str) -> None:
        value, wanted = getattr(self, kind), _TYPES[kind]
        if kind == "choice" and not isinstance(value, str):
            choices = list(value) if isinstance(value, Sequence) else []
            if choices and all(isinstance(text, str) for text in choices):
                object.__setattr__(self, "choice", tuple(choices))
                return
        elif isinstance(value, wanted) and kind != "choice":
            return
        raise RequestError(f"`{PARAM}.{kind}` must be {_SHAPES[kind]}", param=PARAM)

    @property
    def kind(self) -> str:
        """The name of the field that is given."""
        return next(kind for kind in _KINDS if getattr(self, kind) not in (None, False))


_TYPES: dict[str, Any] = {
    "json": (str, Mapping, bool),
    "json_object": bool,
    "regex": str,
    "grammar": str,
    "choice": Sequence,
    "tools": ToolGrammar,
}
_SHAPES = {
    "json": "a JSON schema, as text or as an object",
    "json_object": "true or false",
    "regex": "a regular expression",
    "grammar": "the text of a Lark grammar",
    "choice": "a list of texts",
    "tools": "what `tool_grammar` makes",
}
