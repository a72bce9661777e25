"""Records that are one conversation: messages, Alpaca's columns, a prompt and its answer."""

from __future__ import annotations

from typing import Any

from ...text import as_json
from .fields import RecordError, Row
from .messages import Tags, Turns, check_order, read_turns
from .tools import read_tools
from .types import Conversation, Origin

MESSAGES = ("messages", "conversations", "conversation")
QUESTIONS = ("prompt", "query", "question", "instruction")
ANSWERS = ("completion", "response", "answer", "output")


def read_messages(row: Row, tags: Tags, origin: Origin) -> Conversation:
    """A list of messages, of OpenAI's form or ShareGPT's."""
    column = required(row, *MESSAGES)
    turns = read_turns(row.get(column), row.name(column), tags)
    check_order(turns, row.name(column))
    return conversation(row, turns, origin)


def read_alpaca(row: Row, tags: Tags, origin: Origin) -> Conversation:
    """`instruction`, `input` and `output`, with the turns of `history` before them."""
    turns = alpaca_prompt(row, trained=True)
    turns.add("assistant", required_text(row, "output"), True)
    return conversation(row, turns, origin)


def read_prompt_response(row: Row, tags: Tags, origin: Origin) -> Conversation:
    """A prompt and its answer, as texts or as messages; the prompt is no part of the loss."""
    question, answer = required(row, *QUESTIONS), required(row, *ANSWERS)
    turns = history(row, trained=True) + side(row, question, "user", tags, trained=False)
    turns += side(row, answer, "assistant", tags, trained=True)
    check_order(turns, row.name(question))
    return conversation(row, turns, origin)


def side(row: Row, column: str, role: str, tags: Tags, trained: bool) -> Turns:
    """A column that is messages, or a text that `role` says, of which nothing is stripped."""
    value, turns = row.get(column), Turns()
    if not isinstance(value, str):
        return read_turns(value, row.name(column), tags, trained)
    turns.add(role, value, trained and role == "assistant")
    return turns


def alpaca_prompt(row: Row, trained: bool) -> Turns:
    """The turns before Alpaca's answer; `trained` says whether answers of the history are."""
    texts = [row.text("instruction"), row.text("input")]
    said = [text for text in texts if text]
    if not said:
        names = " and ".join(f"`{row.name(c)}`" for c in ("instruction", "input"))
        raise RecordError(f"{names} are empty: nothing is asked")
    turns = history(row, trained)
    turns.add("user", "\n".join(said))
    return turns


def history(row: Row, trained: bool) -> Turns:
    """The turns of `history`, a list of pairs of a question and its answer."""
    turns, name = Turns(), row.name("history")
    pairs = row.get("history") or []
    if not isinstance(pairs, list):
        raise RecordError(f"`{name}` is {as_json(pairs)}, expected a list of pairs")
    for i, pair in enumerate(pairs):
        texts = pair if isinstance(pair, list) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise RecordError(f"`{name}[{i}]` is {as_json(pair)}, expected two texts")
        turns.add("user", texts[0])
        turns.add("assistant", texts[1], trained)
    return turns


def conversation(row: Row, turns: Turns, origin: Origin) -> Conversation:
    """The conversation of `turns` with the record's tools and its system text."""
    if not any(m["role"] == "assistant" for m in turns.messages):
        raise RecordError("no turn of the assistant")
    turns = _system(row, turns) + turns
    return Conversation(turns.messages, tools_of(row), turns.in_loss, origin, turns.notes)


def tools_of(row: Row) -> list[dict[str, Any]] | None:
    """The tools of a record, also under OpenAI's older name."""
    column = row.first("tools", "functions")
    return None if column is None else read_tools(row.get(column), row.name(column))


def required(row: Row, *columns: str) -> str:
    """The first of the columns that is there."""
    found = row.first(*columns)
    if found is None:
        raise RecordError(f"no `{row.name(columns[0])}`; its keys are {row.keys() or 'none'}")
    return found


def required_text(row: Row, column: str) -> str:
    """A text that must be there, also an empty one."""
    text = row.text(required(row, column))
    assert text is not None
    return text


def _system(row: Row, turns: Turns) -> Turns:
    text, found = row.text("system"), Turns()
    if not text:
        return found
    if turns.messages[0]["role"] == "system":
        if turns.messages[0]["content"] != text:
            found.notes.append(f"`{row.name('system')}` is not used: the messages have their own")
        return found
    found.add("system", text)
    return found
