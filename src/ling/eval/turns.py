"""Whether a model answers each turn of conversations as their records do: in form, in the choice of
a tool, in its arguments, in words.

Every turn of an assistant is asked for behind the record's own messages, so a turn that went wrong
spoils no later one. `tool_talk.py` lets the model go on behind its own call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ..data.assistant import AssistantMessage, ToolCall, parse_assistant
from ..files.guarded import loads
from ..grammar.spec import StructuredOutputs
from ..grammar.tools import tool_grammar
from ..infer.request import SamplingParams
from ..llm import LLM
from ..outputs import CompletionOutput
from .tool_talk import has_free_arguments

MAX_TOKENS = 128


@dataclass
class Turn:
    """What a record has the assistant say, and what the model said in its place."""

    kind: str
    asked: str
    """The message before it."""
    wanted: str
    """Words, or calls as JSON."""
    said: str = ""
    calls: bool = False
    """The record calls tools here."""
    free: bool = False
    """One of their arguments is not from a list of the tool."""
    stopped: bool = False
    """Ended by the end mark."""
    formed: bool = False
    """Words without a call, or calls of tools that are whole, with objects as arguments, without
    words."""
    chosen: bool = False
    """The tools that the record calls, or none where it calls none."""
    exact: bool = False
    """The calls of the record, or words that it counts as right."""
    new: bool = False
    """The record says of its question that the wording was never trained on (`is_new`)."""


def _all(_: Turn) -> bool:
    return True


SHARES: dict[str, tuple[Callable[[Turn], bool], Callable[[Turn], bool]]] = {
    "stopped": (_all, lambda t: t.stopped),
    "formed": (_all, lambda t: t.formed),
    "formed_and_stopped": (_all, lambda t: t.formed and t.stopped),
    "right_tool": (lambda t: t.calls, lambda t: t.chosen),
    "exact_listed": (lambda t: t.calls and not t.free, lambda t: t.exact),
    "exact_free": (lambda t: t.calls and t.free, lambda t: t.exact),
    "words_without_call": (lambda t: not t.calls, lambda t: t.chosen),
    "right_words": (lambda t: not t.calls, lambda t: t.exact),
}
"""By name: the turns that a share is about, and those of them that count."""


@dataclass
class Turns:
    """Turns as a model had them."""

    turns: list[Turn] = field(default_factory=list)

    def share(self, name: str) -> float | None:
        """Of the turns that `name` is about, the share that counts; None where there is none."""
        about, counts = SHARES[name]
        asked = [counts(turn) for turn in self.turns if about(turn)]
        return sum(asked) / len(asked) if asked else None

    def shares(self) -> dict[str, Any]:
        """All of them, and how many turns there are."""
        found = {name: self.share(name) for name in SHARES}
        calls = sum(turn.calls for turn in self.turns)
        return {"turns": len(self.turns), "calls": calls, **found}

    def by_kind(self) -> dict[str, dict[str, Any]]:
        """`shares` of each kind of record, in order of their names."""
        kinds = sorted({turn.kind for turn in self.turns})
        return {k: Turns([t for t in self.turns if t.kind == k]).shares() for k in kinds}

    def of_new(self) -> Turns:
        """Those of wordings that were never trained on."""
        return Turns([turn for turn in self.turns if turn.new])

    def missed(self, most: int) -> list[dict[str, Any]]:
        """The first turns that were not as the record has them, one of each kind in turn."""
        queues = [
            [t for t in self.turns if t.kind == kind and not (t.exact and t.stopped)]
            for kind in self.by_kind()
        ]
        found: list[Turn] = []
        while len(found) < most and any(queues):
            found += [queue.pop(0) for queue in queues if queue]
        return [asdict(turn) for turn in found[:most]]


def measure_turns(llm: LLM, records: Iterable[dict[str, Any]], *, strict: bool = False) -> Turns:
    """Greedy answers to every turn of these records, which are in OpenAI's form; `kind` is the name
    of what a record is about, `answers` the words that are right at its end. With `strict` a
    grammar keeps calls to the tools that are offered, as for tools of `"strict": true`."""
    found = Turns()
    for tools, asked in _by_tools(records):
        params = SamplingParams(
            temperature=0.0,
            max_tokens=MAX_TOKENS,
            structured_outputs=_calls_of(tools) if strict and tools else None,
        )
        outputs = llm.chat([one.messages[:-1] for one in asked], params, tools)
        for one, output in zip(asked, outputs, strict=True):
            found.turns.append(_judged(one, tools, output.outputs[0]))
    return found


def _calls_of(tools: Sequence[dict[str, Any]]) -> StructuredOutputs | None:
    functions = [{**tool["function"], "strict": True} for tool in tools]
    return tool_grammar(functions, "auto")


class _Asked(NamedTuple):
    """One turn of a record: the messages up to and with it, and the words that are right."""

    record: dict[str, Any]
    messages: list[dict[str, Any]]
    answers: Sequence[str]

    @property
    def is_new(self) -> bool:
        """What the record has in its list `is_new` for the last question of these messages."""
        question = sum(message["role"] == "user" for message in self.messages) - 1
        listed = self.record.get("is_new", ())
        return 0 <= question < len(listed) and bool(listed[question])


def _by_tools(
    records: Iterable[dict[str, Any]],
) -> Iterator[tuple[Sequence[dict[str, Any]] | None, list[_Asked]]]:
    """Turns of the assistant in groups of the same tools."""
    groups: dict[str, list[_Asked]] = {}
    for record in records:
        asked = groups.setdefault(json.dumps(record.get("tools")), [])
        messages = record["messages"]
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                is_last = i == len(messages) - 1
                answers = record.get("answers", ()) if is_last else ()
                asked.append(_Asked(record, messages[: i + 1], answers))
    return ((json.loads(tools), asked) for tools, asked in groups.items())


def _judged(asked: _Asked, tools: Sequence[dict[str, Any]] | None, reply: CompletionOutput) -> Turn:
    before, wanted = asked.messages[-2], asked.messages[-1]
    calls = [call["function"] for call in wanted.get("tool_calls") or []]
    said = parse_assistant(reply.text, parse_tools=True, reasoning="none")
    read = [_arguments(call) for call in said.tool_calls]
    words = json.dumps(calls) if calls else wanted["content"]
    turn = Turn(asked.record.get("kind", ""), before["content"], words)
    turn.said, turn.calls = reply.text, bool(calls)
    turn.new = asked.is_new
    turn.free = any(has_free_arguments(list(tools or ()), call["name"]) for call in calls)
    turn.stopped = reply.finish_reason == "stop"
    turn.formed = _formed(said, read) and (tools is not None or not said.tool_calls)
    names = [call.name for call in said.tool_calls]
    turn.chosen = turn.formed and names == [call["name"] for call in calls]
    if calls:
        same = read == [loads(call["arguments"].encode()) for call in calls]
    else:
        same = said.content in (wanted["content"], *asked.answers)
    turn.exact = turn.chosen and same
    return turn


def _formed(said: AssistantMessage, arguments: Sequence[Any]) -> bool:
    if not said.tool_calls:
        return bool(said.content and said.content.strip())
    whole = all(call.is_whole for call in said.tool_calls)
    return whole and not said.content and all(isinstance(a, dict) for a in arguments)


def _arguments(call: ToolCall) -> Any:
    """As JSON; None where they are none."""
    try:
        return loads(call.arguments.encode())
    except ValueError:
        return None
