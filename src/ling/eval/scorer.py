"""What an evaluation asks of a model: scores of continuations, and answers. Who answers is in
`scorers/`: our engine, transformers, or a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..errors import RequestError

Messages = list[dict[str, Any]]


class Row(NamedTuple):
    """Token ids that are given, at least one, and those that are scored behind them."""

    context: list[int]
    continuation: list[int]


class Scored(NamedTuple):
    """Log-probability (nats) of a whole continuation, and whether each of its tokens is the most
    likely one there."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True)
class Ask:
    """An answer that is wanted: to a text, which is continued, or to messages, in the model's own
    chat template. It ends before the first of `stop`, which is no part of it."""

    prompt: str | Messages
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    sample: int = 0
    """Which of several answers to one prompt this is: it seeds what is drawn."""


class Scorer(Protocol):
    """A model that can be evaluated."""

    @property
    def max_length(self) -> int:
        """Most tokens of a context and its continuation, or of a prompt and its answer."""
        ...

    @property
    def end_id(self) -> int:
        """The token that parts documents; a text without a context is scored behind it."""
        ...

    @property
    def has_template(self) -> bool:
        """Whether the chat template is known here, so that `render` can be asked."""
        ...

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids; with `special`, names of control tokens in the text are these tokens."""
        ...

    def render(self, messages: Messages) -> str:
        """The text of a conversation with the opening of the assistant's turn."""
        ...

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """Of each row, in their order; all at once, so that a model may batch them."""
        ...

    def generate(self, asks: Sequence[Ask]) -> list[str]:
        """The answer to each."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def fitted(row: Row, max_length: int) -> Row:
    """The row without the beginning of its context where it is too long for the model."""
    room = max_length - len(row.continuation)
    if not row.context:
        raise RequestError("nothing comes before what is to be scored")
    if room < 1:
        raise RequestError(
            f"{len(row.continuation)} tokens to score, the model's context has room for "
            f"{max_length - 1}"
        )
    return Row(row.context[-room:], row.continuation)


def with_room(ids: list[int], max_tokens: int, max_length: int) -> tuple[list[int], int]:
    """A prompt and the most tokens of its answer, such that the model has room for both: a long
    prompt loses its beginning rather than its question, but never more than half of the room."""
    ids = ids[-max(max_length - max_tokens, max_length // 2) :]
    return ids, min(max_tokens, max_length - len(ids))


def pair(scorer: Scorer, context: str, continuation: str) -> Row:
    """The tokens of a text and of what follows it, cut where the tokens of both together are.

    Spaces at the context's end belong to the continuation, as tokenizers have it.
    """
    bare = context.rstrip()
    continuation, context = context[len(bare) :] + continuation, bare
    if not context:
        return Row([scorer.end_id], scorer.encode(continuation))
    before = scorer.encode(context, special=True)
    return Row(before, scorer.encode(context + continuation, special=True)[len(before) :])


def rolling(ids: Sequence[int], end_id: int, max_length: int) -> Iterator[Row]:
    """Rows that score each of `ids` once, behind as many of those before it as the model can read:
    the first of all is behind `end_id`. `max_length` is as in `Scorer`.

    Windows do not overlap but in the last, which looks back as far as it can (as lm-eval has it).
    """
    size = max_length - 1
    whole = [end_id, *ids]
    for start in range(0, len(ids), size):
        stop = min(start + size, len(ids))
        first = max(stop - size, 0) if start else 0
        yield Row(whole[first : start + 1], list(ids[start:stop]))


def cut(text: str, stop: Iterable[str]) -> str:
    """The text before the first of `stop`."""
    found = [at for word in stop if (at := text.find(word)) >= 0]
    return text[: min(found)] if found else text
