"""How well a model keeps to conversations with tools: where it stops, which tool it calls, with
what, what it says to the result, and whose name it gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..data.assistant import AssistantMessage, parse_assistant
from ..files.guarded import loads
from ..infer.request import SamplingParams
from ..llm import LLM
from ..outputs import CompletionOutput

SHARES = ("stopped", "right_tool", "exact", "answered", "right_answer", "free_exact", "named")
_MAX_TOKENS = 96


@dataclass
class Talk:
    """A held-out conversation as a model had it; the second turn only behind an exact call."""

    asked: str
    said: str
    result: str
    """What the tool returned, where it was called."""
    answer: str = ""
    stopped: bool = False
    """Ended by the end mark in both turns that there were."""
    right_tool: bool = False
    """One call, whole, of the expected tool, its arguments a JSON object."""
    exact: bool = False
    """With the expected arguments."""
    free: bool = False
    """An argument is not from a list of the tool."""
    answered: bool = False
    """The result was answered in words, without another call."""
    right_answer: bool = False
    """In the words of the record."""


@dataclass
class Introduction:
    """Who is asked, and what was said."""

    asked: str
    said: str
    stopped: bool
    named: bool
    """Words, without a call, in which the expected name is; and they ended."""


@dataclass
class Score:
    """Shares over all conversations."""

    talks: list[Talk] = field(default_factory=list)
    introductions: list[Introduction] = field(default_factory=list)

    def share(self, name: str) -> float:
        """Of the conversations that `name` is about, those where it holds: `named` of the
        introductions, `free_exact` of those with free arguments, `stopped` and `right_tool` of all
        that ask for a tool, the rest of those whose arguments are from lists."""
        asked = self._about(name)
        holds = [getattr(talk, name.removeprefix("free_")) for talk in asked]
        return sum(holds) / max(len(holds), 1)

    def _about(self, name: str) -> Sequence[Talk | Introduction]:
        if name == "named":
            return self.introductions
        if name in ("stopped", "right_tool"):
            return self.talks
        return [talk for talk in self.talks if talk.free == (name == "free_exact")]

    def as_dict(self) -> dict[str, Any]:
        """Shares, and the conversations."""
        return {
            "prompts": len(self.talks),
            **{name: self.share(name) for name in SHARES},
            "talks": [asdict(t) for t in self.talks],
            "introductions": [asdict(t) for t in self.introductions],
        }


def measure(llm: LLM, records: Sequence[dict[str, Any]], name: str) -> Score:
    """Greedy answers to each record's question, then to the result of its call.

    Records are of one turn: user, call, result, answer; or user, answer, which is to have `name`.
    """
    score, params = Score(), SamplingParams(temperature=0.0, max_tokens=_MAX_TOKENS)
    for group in _by_tools(records):
        tools = group[0].get("tools")
        outputs = llm.chat([r["messages"][:1] for r in group], params, tools)
        asked = []
        for record, output in zip(group, outputs, strict=True):
            if not _calls(record):
                score.introductions.append(_introduction(record, output.outputs[0], name))
                continue
            talk = _talk(record, output.outputs[0])
            score.talks.append(talk)
            asked.append((talk, record))
        _second_turns(llm, asked, params, tools)
    return score


def _calls(record: dict[str, Any]) -> list[Any]:
    """The calls of the first answer."""
    return record["messages"][1].get("tool_calls") or []


def _by_tools(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """In groups that have the same tools."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(json.dumps(record.get("tools")), []).append(record)
    return list(groups.values())


def _introduction(record: dict[str, Any], reply: CompletionOutput, name: str) -> Introduction:
    said, stopped = _parsed(reply), reply.finish_reason == "stop"
    named = stopped and not said.tool_calls and name in (said.content or "")
    return Introduction(record["messages"][0]["content"], reply.text, stopped, named)


def _talk(record: dict[str, Any], reply: CompletionOutput) -> Talk:
    asked, _, result, *_ = [message.get("content") for message in record["messages"]]
    wanted = _calls(record)[0]["function"]
    talk = Talk(asked, reply.text, result, stopped=reply.finish_reason == "stop")
    talk.free = has_free_arguments(record["tools"], wanted["name"])
    _judge_call(talk, _parsed(reply), wanted)
    return talk


def has_free_arguments(tools: list[dict[str, Any]], name: str) -> bool:
    """Whether a tool has an argument that is not from a list."""
    (tool,) = [t["function"] for t in tools if t["function"]["name"] == name]
    return any("enum" not in schema for schema in tool["parameters"]["properties"].values())


def _parsed(reply: CompletionOutput) -> AssistantMessage:
    return parse_assistant(reply.text, parse_tools=True, reasoning="none")


def _judge_call(talk: Talk, said: AssistantMessage, wanted: dict[str, str]) -> None:
    if len(said.tool_calls) != 1 or said.content:
        return
    (call,) = said.tool_calls
    try:
        arguments = loads(call.arguments.encode())
    except ValueError:
        return
    talk.right_tool = call.is_whole and call.name == wanted["name"] and isinstance(arguments, dict)
    talk.exact = talk.right_tool and arguments == json.loads(wanted["arguments"])


def _second_turns(
    llm: LLM,
    asked: Sequence[tuple[Talk, dict[str, Any]]],
    params: SamplingParams,
    tools: list[dict[str, Any]] | None,
) -> None:
    going_on = [(talk, record) for talk, record in asked if talk.exact and talk.stopped]
    if not going_on:
        return
    second = llm.chat([record["messages"][:3] for _, record in going_on], params, tools)
    for (talk, record), output in zip(going_on, second, strict=True):
        reply = output.outputs[0]
        said = _parsed(reply)
        talk.answer = reply.text
        talk.stopped = reply.finish_reason == "stop"
        talk.answered = talk.stopped and bool(said.content) and not said.tool_calls
        talk.right_answer = reply.text == record["messages"][3]["content"]
