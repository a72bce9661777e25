"""Conversations to token ids and labels: what the server would send, and what is learned of it.

Labels are made by position: a token is learned only if all its characters were said by the
assistant, whatever its id is. The end mark is learned where the template wrote it, and padding
with the same id is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ..tokenise import encode
from .rendered import Marked, TrainingTemplate, marked_samples
from .types import Conversation, Preference

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

NOT_TRAINED = -100


class Supervised(NamedTuple):
    """A sample: `labels` are its ids where they are learned and -100 elsewhere, not shifted;
    `spans` [start, end) are the characters of `text` that are learned.
    """

    text: str
    ids: list[int]
    labels: list[int]
    spans: list[tuple[int, int]]
    notes: list[str]

    @property
    def trained(self) -> int:
        """Tokens that are learned; the first id of a sample cannot be."""
        first = self.labels[:1]
        hidden = self.labels.count(NOT_TRAINED) - first.count(NOT_TRAINED)
        return len(self.labels) - len(first) - hidden


def supervise(
    c: Conversation,
    template: TrainingTemplate,
    tokenizer: Tokenizer,
    *,
    thinking: bool = False,
    split_turns: bool = False,
) -> list[Supervised]:
    """Samples of a conversation: one, or with `split_turns` one more for each turn that the whole
    shows otherwise than the server would.

    Raises `TemplateError` for a conversation that the template refuses.
    """
    options = {"thinking": thinking, "split_turns": split_turns}
    return encode_marked(marked_samples(c, template, tokenizer, **options), tokenizer)


def answers_of(pair: Preference) -> tuple[Conversation, Conversation]:
    """Chosen and rejected conversation, in which only what differs is in the loss."""
    messages = zip(pair.chosen.messages, pair.rejected.messages, strict=False)
    shared = next((i for i, (a, b) in enumerate(messages) if a != b), 0)
    return _without(pair.chosen, shared), _without(pair.rejected, shared)


def _without(c: Conversation, first: int) -> Conversation:
    return replace(c, in_loss=[kept and i >= first for i, kept in enumerate(c.in_loss)])


def encode_marked(samples: Sequence[Marked], tokenizer: Tokenizer) -> list[Supervised]:
    """Ids and labels of many samples, encoded together; what they share, such as tools, once."""
    parts = [list(_parts(s, tokenizer)) for s in samples]
    texts = list(dict.fromkeys(p.text for ps in parts for p in ps if p.ids is None))
    ids_of = dict(zip(texts, encode(texts, tokenizer), strict=True))
    for part in (p for ps in parts for p in ps if p.ids is None):
        part.ids = ids_of[part.text]
    return [_joined(s, ps) for s, ps in zip(samples, parts, strict=True)]


@dataclass(slots=True)
class _Part:
    """A run of text that is learned in all its tokens or in none, or whose `labels` say which."""

    text: str
    is_trained: bool
    ids: list[int] | None = None
    labels: list[int] | None = None
    note: str = ""


def _parts(sample: Marked, tokenizer: Tokenizer) -> Iterator[_Part]:
    spans = iter([*sample.spans, (len(sample.text) + 1,) * 2])
    start, end = next(spans)
    mark = sample.mark if sample.mark in sample.text else ""
    for text, first, control in tokenizer.pieces(sample.text):
        last = first + len(text)
        while end <= first:
            start, end = next(spans)
        is_inside = start <= first and last <= end
        if control is not None:
            yield _Part("", is_inside, [control])
        elif not text:
            continue
        elif is_inside or last <= start:
            yield _Part(text.replace(mark, "") if mark else text, is_inside)
        elif sample.pieces_alone:
            yield from _alone(first, last, sample)
        else:
            yield _straddling(text, first, sample, tokenizer)


def _alone(first: int, last: int, sample: Marked) -> Iterator[_Part]:
    """Plain text that was said in part, cut at the borders."""
    inside = [at for span in sample.spans for at in span if first < at < last]
    for start, end in pairwise([first, *inside, last]):
        is_trained = any(a <= start and end <= b for a, b in sample.spans)
        yield _Part(sample.text[start:end].replace(sample.mark, ""), is_trained)


def _straddling(text: str, start: int, sample: Marked, tokenizer: Tokenizer) -> _Part:
    """Plain text that was said in part. A token that was said in part is not learned: the server
    would have sent its beginning, or stopped before its end.
    """
    text = text.replace(sample.mark, "")
    ids, offsets = tokenizer.encode_with_offsets(text)
    said = [_unmarked_span(sample, span, start) for span in sample.spans]
    labels, cut = [], 0
    for i, (first, last) in zip(ids, offsets, strict=True):
        is_trained = any(start <= first and last <= end for start, end in said)
        cut += not is_trained and any(first < end and start < last for start, end in said)
        labels.append(i if is_trained else NOT_TRAINED)
    note = f"{cut} token(s) across the border of a turn are not trained"
    return _Part(text, False, ids, labels, note if cut else "")


def _unmarked_span(sample: Marked, span: tuple[int, int], first: int = 0) -> tuple[int, int]:
    """A span in characters behind `first` without marks; what is before `first` is negative."""
    start, end = (at - first - sample.text.count(sample.mark, first, at) for at in span)
    return start, end


def _joined(sample: Marked, parts: Iterable[_Part]) -> Supervised:
    ids: list[int] = []
    labels: list[int] = []
    notes = list(sample.notes)
    for part in parts:
        assert part.ids is not None
        ids += part.ids
        hidden = part.ids if part.is_trained else [NOT_TRAINED] * len(part.ids)
        labels += hidden if part.labels is None else part.labels
        if part.note:
            notes.append(part.note)
    text = sample.text.replace(sample.mark, "")
    return Supervised(text, ids, labels, [_unmarked_span(sample, s) for s in sample.spans], notes)
