"""How well a model keeps to conversations with tools: where it stops, which tool it calls, with
what, what it says to the result, whose name it gives, and what it answers where that is known."""

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

SHARES = (
    "stopped",
    "right_tool",
    "exact",
    "answered",
    "right_answer",
    "free_exact",
    "named",
    "right",
)
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
    kind: str = ""
    is_new: bool = False
    """The record says that its wording, or the name of its tool, was never trained on."""


@dataclass
class Introduction:
    """Who is asked, and what was said."""

    asked: str
    said: str
    stopped: bool
    named: bool
    """Words, without a call, in which the expected name is; and they ended."""


@dataclass
class Answer:
    """A question whose right answers are known, and what was said."""

    asked: str
    said: str
    stopped: bool
    right: bool
    """One of the right answers and nothing else; and it ended."""
    kind: str = ""
    is_new: bool = False


@dataclass
class Score:
    """Shares over all conversations."""

    talks: list[Talk] = field(default_factory=list)
    introductions: list[Introduction] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def share(self, name: str) -> float:
        """Of the conversations that `name` is about, those where it holds: `named` of the
        introductions, `right` of the answers, `free_exact` of those with free arguments, `stopped`
        and `right_tool` of all that ask for a tool, the rest of those whose arguments are from
        lists."""
        asked = self._about(name)
        holds = [getattr(talk, name.removeprefix("free_")) for talk in asked]
        return sum(holds) / max(len(holds), 1)

    def kinds(self) -> dict[str, tuple[int, float]]:
        """For each kind of record how many there are, and the share of exact calls or of right
        answers."""
        found: dict[str, list[bool]] = {}
        for talk in self.talks:
            found.setdefault(talk.kind, []).append(talk.exact)
        for answer in self.answers:
            found.setdefault(answer.kind, []).append(answer.right)
        return {kind: (len(holds), sum(holds) / len(holds)) for kind, holds in found.items()}

    def _about(self, name: str) -> Sequence[Talk | Introduction | Answer]:
        if name == "named":
            return self.introductions
        if name == "right":
            return self.answers
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
            "kinds": {k: {"prompts": n, "right": share} for k, (n, share) in self.kinds().items()},
            "answers": [asdict(t) for t in self.answers],
        }


def measure(llm: LLM, records: Sequence[dict[str, Any]], name: str) -> Score:
    """Greedy answers to each record's question, then to the result of its call.

    The last turn of a record is asked, the turns before it are given: user, call, result, answer;
    or user, answer, which is to have `name` or, where the record has a list `answers`, to be one of
    those. Without that list the answer to a result is to be that of the record.
    """
    score, params = Score(), SamplingParams(temperature=0.0, max_tokens=_MAX_TOKENS)
    for group in _by_tools(records):
        tools = group[0].get("tools")
        outputs = llm.chat([r["messages"][: _asked(r) + 1] for r in group], params, tools)
        asked = []
        for record, output in zip(group, outputs, strict=True):
            if not _calls(record) and "answers" in record:
                score.answers.append(_answer(record, output.outputs[0]))
                continue
            if not _calls(record):
                score.introductions.append(_introduction(record, output.outputs[0], name))
                continue
            talk = _talk(record, output.outputs[0])
            score.talks.append(talk)
            asked.append((talk, record))
        _second_turns(llm, asked, params, tools)
    return score


def _asked(record: dict[str, Any]) -> int:
    """Where the last question is."""
    return max(n for n, message in enumerate(record["messages"]) if message["role"] == "user")


def _calls(record: dict[str, Any]) -> list[Any]:
    """The calls of the first answer to the last question."""
    return record["messages"][_asked(record) + 1].get("tool_calls") or []


def _right(record: dict[str, Any]) -> list[str]:
    """The last answers that are right."""
    return record.get("answers") or [record["messages"][-1]["content"]]


def _by_tools(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """In groups that have the same tools."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(json.dumps(record.get("tools")), []).append(record)
    return list(groups.values())


def _introduction(record: dict[str, Any], reply: CompletionOutput, name: str) -> Introduction:
    said, stopped = _parsed(reply), reply.finish_reason == "stop"
    named = stopped and not said.tool_calls and name in (said.content or "")
    return Introduction(record["messages"][_asked(record)]["content"], reply.text, stopped, named)


def _answer(record: dict[str, Any], reply: CompletionOutput) -> Answer:
    asked, stopped = record["messages"][_asked(record)]["content"], reply.finish_reason == "stop"
    right = stopped and reply.text in _right(record)
    return Answer(asked, reply.text, stopped, right, **_about_record(record))


def _about_record(record: dict[str, Any]) -> dict[str, Any]:
    return {"kind": record.get("kind", ""), "is_new": record.get("is_new", False)}


def _talk(record: dict[str, Any], reply: CompletionOutput) -> Talk:
    turn = record["messages"][_asked(record) :]
    asked, _, result, *_ = [message.get("content") for message in turn]
    wanted = _calls(record)[0]["function"]
    talk = Talk(asked, reply.text, result, **_about_record(record))
    talk.stopped = reply.finish_reason == "stop"
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
    said_before = [record["messages"][: _asked(record) + 3] for _, record in going_on]
    second = llm.chat(said_before, params, tools)
    for (talk, record), output in zip(going_on, second, strict=True):
        reply = output.outputs[0]
        said = _parsed(reply)
        talk.answer = reply.text
        talk.stopped = reply.finish_reason == "stop"
        talk.answered = talk.stopped and bool(said.content) and not said.tool_calls
        talk.right_answer = reply.text in _right(record)
