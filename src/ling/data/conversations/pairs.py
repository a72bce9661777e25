"""Records with a better and a worse answer: the forms of LLaMA-Factory and of trl."""

from __future__ import annotations

from .fields import RecordError, Row
from .messages import Tags, Turns, check_order, read_turns
from .talk import (
    MESSAGES,
    alpaca_prompt,
    conversation,
    required,
    side,
)
from .types import Origin, Preference

PAIR_COLUMNS = ("chosen", "rejected", "chosen_messages", "rejected_messages")


def read_pair(row: Row, tags: Tags, origin: Origin) -> Preference:
    """A pair; only what differs, the answers, is in the loss."""
    prompt, sides, name = _parts(row, tags)
    chosen, rejected = (prompt + answer for answer in sides)
    shared = _num_shared(chosen, rejected, len(prompt.messages))
    for turns, column in ((chosen, "chosen"), (rejected, "rejected")):
        check_order(turns, name or row.name(column))
        _check_answer(turns, shared, row.name(column))
        turns.in_loss[:shared] = [False] * shared
    if chosen.messages == rejected.messages:
        names = f"`{row.name('chosen')}` and `{row.name('rejected')}`"
        raise RecordError(f"{names} are the same answer: nothing says which is better")
    return Preference(
        conversation(row, chosen, origin), conversation(row, rejected, origin), origin
    )


def _parts(row: Row, tags: Tags) -> tuple[Turns, tuple[Turns, Turns], str | None]:
    """The prompt (empty where the answers hold it), the two sides, and the name of the prompt."""
    if row.first("chosen_messages", "rejected_messages"):
        columns = ("chosen_messages", "rejected_messages")
    else:
        columns = ("chosen", "rejected")
    better, worse = (required(row, column) for column in columns)
    sides = _answer(row, better, tags), _answer(row, worse, tags)
    messages = row.first(*MESSAGES)
    if messages is not None:
        name = row.name(messages)
        return read_turns(row.get(messages), name, tags, trained=False), sides, name
    if row.first("instruction", "input"):
        return alpaca_prompt(row, trained=False), sides, row.name("instruction")
    question = row.first("prompt", "query", "question")
    if question is not None:
        return _explicit(row, question, sides, tags)
    texts = row.get(better), row.get(worse)
    if isinstance(texts[0], str) and isinstance(texts[1], str):
        return _split_texts(row, *texts)
    return Turns(), sides, None


def _answer(row: Row, column: str, tags: Tags) -> Turns:
    value = row.get(column)
    if isinstance(value, dict):  # one message
        return read_turns([value], row.name(column), tags)
    return side(row, column, "assistant", tags, trained=True)


def _explicit(
    row: Row, question: str, sides: tuple[Turns, Turns], tags: Tags
) -> tuple[Turns, tuple[Turns, Turns], str | None]:
    """A prompt of its own, unless both answers repeat it in their messages, as UltraFeedback's."""
    prompt = side(row, question, "user", tags, trained=False)
    if all(answer.messages[:1] and answer.messages[0]["role"] != "assistant" for answer in sides):
        return Turns(), sides, None
    return prompt, sides, row.name(question)


def _split_texts(
    row: Row, chosen: str, rejected: str
) -> tuple[Turns, tuple[Turns, Turns], str | None]:
    """Texts that begin with their prompt: it ends before the word in which they differ."""
    at = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    at = min(len(chosen), len(rejected)) if at is None else at
    if at and chosen[at - 1] == " ":
        at -= 1
    names = f"`{row.name('chosen')}` and `{row.name('rejected')}`"
    if not at:
        raise RecordError(f"no `prompt`, and {names} have no common beginning to be one")
    if len(chosen) == len(rejected) == at:
        raise RecordError(f"no `prompt`, and {names} are the same text")
    prompt, better, worse = Turns(), Turns(), Turns()
    prompt.add("user", chosen[:at])
    better.add("assistant", chosen[at:], True)
    worse.add("assistant", rejected[at:], True)
    return prompt, (better, worse), row.name("chosen")


def _num_shared(chosen: Turns, rejected: Turns, least: int) -> int:
    """Messages with which both conversations begin, so that an answer of each is left."""
    shared = least
    for better, worse in zip(chosen.messages[least:-1], rejected.messages[least:-1], strict=False):
        if better != worse:
            break
        shared += 1
    return shared


def _check_answer(turns: Turns, shared: int, name: str) -> None:
    left = turns.messages[shared:]
    if not left:
        raise RecordError(f"`{name}` has no answer")
    if left[0]["role"] != "assistant":
        raise RecordError(f"`{name}` is not an answer to the same messages as the other")
