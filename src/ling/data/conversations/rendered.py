"""Which characters of a rendered conversation the assistant said, for any chat template.

A turn is trained where the model would have said it: the whole begins with what the server sends
before the turn (the messages before it and the generation prompt), and reads on as a conversation
that ends with the turn. A template that drops earlier reasoning breaks that for earlier turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...errors import TemplateError
from ..chat import ChatTemplate, GuardedChat, TurnMarks, guard_chat, is_within
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
    turns = [i for i, m in enumerate(chat.messages) if m.get("role") == "assistant"]
    kept, notes = conversation.in_loss, conversation.notes
    if marks is None:
        assert isinstance(template, ChatTemplate)
        trained = [i for i in turns if kept[i]]
        reading = _Reading(template, chat, trained, list(tokenizer.control_tokens))
        return list(reading.samples(notes, split_turns))
    whole = chat.render(template.render, False)
    found = zip(_between(whole, marks), turns, strict=True)
    spans = [span for span, i in found if kept[i]]
    marked = Marked(whole, chat.mark, spans, notes, template.pieces_alone)
    return [_ended(marked, template.ending, tokenizer)]


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


def _between(text: str, marks: TurnMarks) -> Iterator[Span]:
    """What is between the marks, each end a part of it."""
    at = 0
    while (begin := text.find(marks.before, at)) >= 0:
        start = begin + len(marks.before)
        at = text.index(marks.end, start) + len(marks.end)
        yield start, at


class _Reading:
    """A conversation rendered as a whole, and before and behind each turn."""

    def __init__(
        self, template: ChatTemplate, chat: GuardedChat, turns: list[int], controls: list[str]
    ) -> None:
        self._mark, self._turns, self._controls = chat.mark, turns, tuple(controls)
        self._messages = chat.messages
        cuts = [(len(chat.messages), False)]
        cuts += [cut for i in turns for cut in ((i, True), (i + 1, False))]
        cuts = list(dict.fromkeys(cuts))  # the last turn is the whole
        found = chat.render_beginnings(template, cuts)
        self._texts = dict(zip(cuts, found, strict=True))
        self._whole = str(found[0])

    def samples(self, notes: list[str], split_turns: bool) -> Iterator[Marked]:
        """Those of the turns; the whole comes last."""
        spans, left_out = [], []
        for i in self._turns:
            turn, reason = self._turn(i)
            if turn is not None and self._whole.startswith(turn.text):
                spans += turn.spans
            elif turn is not None and split_turns:
                note = f"messages[{i}] is trained in a sample of its own"
                yield turn._replace(notes=[*notes, note])
            else:
                left_out.append(f"messages[{i}] {CONTEXT_ONLY}: {reason or _DIFFERS}")
        if spans or left_out or not split_turns or not self._turns:
            yield Marked(self._whole, self._mark, spans, [*notes, *left_out])

    def _turn(self, i: int) -> tuple[Marked | None, str]:
        """The conversation up to a turn with the turn marked; None, and why, where it does not
        begin with what the server would send.
        """
        before, after = self._texts[i, True], self._texts[i + 1, False]
        if isinstance(before, TemplateError) or isinstance(after, TemplateError):
            failed = before if isinstance(before, TemplateError) else after
            return None, f"the server cannot render the messages before it ({failed})"
        if not after.startswith(before) or len(after) == len(before):
            return None, "its text does not begin with the generation prompt that the server sends"
        if not _says(after[len(before) :], self._messages[i], self._mark):
            return None, "the template leaves out some of its content, reasoning or calls"
        span = (len(before), self._end(after, len(before)))
        return Marked(after, self._mark, [span], []), ""

    def _end(self, text: str, start: int) -> int:
        """Without white space behind the end mark: the server stops there."""
        said = text[start:].rstrip()
        return start + len(said) if said.endswith(self._controls) else len(text)


def _says(text: str, message: dict[str, Any], mark: str) -> bool:
    """Whether a text has the reasoning, the content and the names of the calls of a message."""
    calls = message.get("tool_calls") or []
    names = [call.get("function", call)["name"] for call in calls]
    said = [message.get("reasoning_content") or "", message.get("content") or "", *names]
    at = 0
    for part in map(str.strip, said):
        if (at := text.find(part, at)) < 0:
            break
        at += len(part)
    else:
        return True
    # Templates may escape texts, change their case, and write white space and tags of their own.
    plain = _UNSAID.sub("", "".join(said).replace(mark, "")).lower()
    written = text.lower()
    return is_within(plain, written) or is_within(json.dumps(plain)[1:-1], written)


_UNSAID = re.compile(r"\s|</?think>")
_DIFFERS = (
    "it, or a turn before it, reads otherwise in the whole conversation (templates drop earlier "
    "reasoning); `--split-turns` trains it by itself"
)
