"""How well a model keeps to conversations with tools: where it stops, which tool it calls, with
what, and what it says to the result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..data.assistant import AssistantMessage, parse_assistant
from ..files.guarded import loads
from ..infer.request import SamplingParams
from ..llm import LLM

_MAX_TOKENS = 96


@dataclass
class Talk:
    """A held-out conversation as a model had it; the second turn only behind an exact call."""

    asked: str
    said: str
    answer: str = ""
    stopped: bool = False
    """Ended by the end mark in both turns that there were."""
    right_tool: bool = False
    """One call, whole, of the expected tool, its arguments a JSON object."""
    exact: bool = False
    """With the expected arguments."""
    answered: bool = False
    """The result was answered in words, without another call."""
    right_answer: bool = False
    """In the words of the record."""


@dataclass
class Score:
    """Shares over all conversations."""

    talks: list[Talk] = field(default_factory=list)

    def share(self, name: str) -> float:
        """Of those where `name`, a field of `Talk`, holds."""
        return sum(getattr(talk, name) for talk in self.talks) / max(len(self.talks), 1)

    def as_dict(self) -> dict[str, Any]:
        """Shares, and the conversations."""
        names = ("stopped", "right_tool", "exact", "answered", "right_answer")
        shares = {name: self.share(name) for name in names}
        return {"prompts": len(self.talks), **shares, "talks": [asdict(t) for t in self.talks]}


def read_talks(path: Path, count: int) -> list[dict[str, Any]]:
    """The first records of a file that ask for a tool: user, call, result, answer."""
    lines = path.read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [r for r in records if r["messages"][1].get("tool_calls")][:count]


def measure(llm: LLM, records: Sequence[dict[str, Any]]) -> Score:
    """Greedy answers to each record's question, then to the result of its call."""
    params = SamplingParams(temperature=0.0, max_tokens=_MAX_TOKENS)
    (tools,) = _one(records)
    first = llm.chat([r["messages"][:1] for r in records], params, tools)
    score = Score()
    for record, output in zip(records, first, strict=True):
        asked, called, *_ = record["messages"]
        reply = output.outputs[0]
        said = parse_assistant(reply.text, parse_tools=True, reasoning="none")
        talk = Talk(asked["content"], reply.text, stopped=reply.finish_reason == "stop")
        _judge_call(talk, said, called["tool_calls"][0]["function"])
        score.talks.append(talk)
    _second_turns(llm, score, records, params, tools)
    return score


def _one(records: Sequence[dict[str, Any]]) -> list[Any]:
    """The tools that all records have."""
    found = {json.dumps(r["tools"]) for r in records}
    return [json.loads(tools) for tools in found]


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
    score: Score,
    records: Sequence[dict[str, Any]],
    params: SamplingParams,
    tools: list[dict[str, Any]],
) -> None:
    both = zip(score.talks, records, strict=True)
    going_on = [(talk, record) for talk, record in both if talk.exact and talk.stopped]
    if not going_on:
        return
    second = llm.chat([record["messages"][:3] for _, record in going_on], params, tools)
    for (talk, record), output in zip(going_on, second, strict=True):
        reply = output.outputs[0]
        said = parse_assistant(reply.text, parse_tools=True, reasoning="none")
        talk.answer = reply.text
        talk.stopped = reply.finish_reason == "stop"
        talk.answered = talk.stopped and bool(said.content) and not said.tool_calls
        talk.right_answer = reply.text == record["messages"][3]["content"]
