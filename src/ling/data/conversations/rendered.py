"""Which characters of a rendered conversation the assistant said, for any chat template.

A turn is trained where the model would have said it: the whole begins with what the server sends
before the turn (the messages before it and the generation prompt), and reads on as a conversation
that ends with the turn. A template that drops earlier reasoning breaks that for earlier turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...errors import TemplateError
from ..chat import GuardedChat, TurnMarks, guard_chat
from .types import Conversation

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

Span = tuple[int, int]
# What notes say of a turn that is not trained though it is in the loss.
CONTEXT_ONLY = "is context only"


class TrainingTemplate(Protocol):
    """A `ChatTemplate`, or the original training's own text.

    `source` decides what it writes. `ending` is a control token behind each conversation that is
    learned, too; `pieces_alone` says that each turn is encoded by itself.
    """

    source: str
    ending: str
    pieces_alone: bool

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str: ...

    def turn_marks(self, messages: Sequence[dict[str, Any]]) -> TurnMarks | None: ...


class Marked(NamedTuple):
    """The text of a sample, in which `mark` keeps users' texts plain, and what of it is trained.

    `spans` are ascending, in characters of `text` with its marks.
    """

    text: str
    mark: str
    spans: list[Span]
    notes: list[str]
    pieces_alone: bool = False


def marked_samples(
    conversation: Conversation,
    template: TrainingTemplate,
    tokenizer: Tokenizer,
    *,
    thinking: bool = False,
    split_turns: bool = False,
) -> list[Marked]:
    """The samples of a conversation; one, unless `split_turns` adds those of turns that are
    otherwise context only. Raises `TemplateError` where the template refuses the whole.
    """
    marks = template.turn_marks(conversation.messages)
    names = [*tokenizer.control_tokens, *(marks.names if marks else ())]
    variables = {"enable_thinking": True} if thinking else {}
    chat = guard_chat(names, conversation.messages, conversation.tools, variables)
    whole = chat.render(template.render, chat.messages, False)
    turns = [i for i, m in enumerate(chat.messages) if m.get("role") == "assistant"]
    spans = _between(whole, marks, len(turns)) if marks else None
    kept = conversation.in_loss
    if spans is not None:
        spans = [s for s, i in zip(spans, turns, strict=True) if kept[i]]
        marked = Marked(whole, chat.mark, spans, conversation.notes, template.pieces_alone)
        return [_ended(marked, template.ending, tokenizer)]
    reading = _Reading(template, chat, whole, tuple(tokenizer.control_tokens))
    return list(reading.samples([i for i in turns if kept[i]], conversation.notes, split_turns))


def _ended(sample: Marked, ending: str, tokenizer: Tokenizer) -> Marked:
    """The sample with the template's ending, which is learned with the last turn."""
    if not ending:
        return sample
    if ending not in tokenizer.control_tokens:
        raise TemplateError(f"the tokenizer has no `{ending}`, with which the template ends")
    text, spans = sample.text + ending, list(sample.spans)
    if spans and spans[-1][1] == len(sample.text):
        spans[-1] = (spans[-1][0], len(text))
    return sample._replace(text=text, spans=spans)


def _between(text: str, marks: TurnMarks, count: int) -> list[Span] | None:
    """What is between the marks, each end a part of it; None unless there are `count` of them."""
    spans, at = [], 0
    while (begin := text.find(marks.before, at)) >= 0:
        start = begin + len(marks.before)
        end = text.find(marks.end, start)
        if end < 0:
            return None
        at = end + len(marks.end)
        spans.append((start, at))
    return spans if len(spans) == count else None


class _Reading:
    """A conversation rendered as a whole and up to each turn."""

    def __init__(
        self, template: TrainingTemplate, chat: GuardedChat, whole: str, controls: tuple[str, ...]
    ) -> None:
        self._template, self._chat, self._whole = template, chat, whole
        self._controls = controls

    def samples(self, turns: list[int], notes: list[str], split_turns: bool) -> Iterator[Marked]:
        """Of these turns' message numbers; the whole comes last."""
        spans, left_out = [], []
        for i in turns:
            turn, reason = self._turn(i)
            if turn is not None and self._whole.startswith(turn.text):
                spans += turn.spans
            elif turn is not None and split_turns:
                note = f"messages[{i}] is trained in a sample of its own"
                yield turn._replace(notes=[*notes, note])
            else:
                left_out.append(f"messages[{i}] {CONTEXT_ONLY}: {reason or _DIFFERS}")
        if spans or not split_turns or not turns:
            yield Marked(self._whole, self._chat.mark, spans, [*notes, *left_out])

    def _turn(self, i: int) -> tuple[Marked | None, str]:
        """The conversation up to a turn with the turn marked; None, and why, where it does not
        begin with what the server would send.
        """
        try:
            before = self._render(i, True)
            after = self._render(i + 1, False)
        except TemplateError as err:
            return None, f"the server cannot render the messages before it ({err})"
        if not after.startswith(before) or len(after) == len(before):
            return None, "its text does not begin with the generation prompt that the server sends"
        span = (len(before), self._end(after, len(before)))
        return Marked(after, self._chat.mark, [span], []), ""

    def _render(self, count: int, add_generation_prompt: bool) -> str:
        messages = self._chat.messages
        if count == len(messages) and not add_generation_prompt:
            return self._whole
        return self._chat.render(self._template.render, messages[:count], add_generation_prompt)

    def _end(self, text: str, start: int) -> int:
        """Without white space behind the end mark: the server stops there."""
        said = text[start:].rstrip()
        return start + len(said) if said.endswith(self._controls) else len(text)


_DIFFERS = (
    "it, or a turn before it, reads otherwise in the whole conversation (templates drop earlier "
    "reasoning); `--split-turns` trains it by itself"
)
