"""Chat templates: messages to text, and to token ids that no message can forge."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import TemplateError
from .history import plain_message, plain_tool
from .sandbox import Cut, compile_own, each_cut, render_own

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

Messages = Sequence[dict[str, Any]]
# Noncharacters: Unicode keeps them out of texts, so one that marks our guards is always left.
_MARKS = [(chr(c), json.dumps(chr(c))[1:-1]) for c in range(0xFDD0, 0xFDF0)]
_JSON = json.JSONEncoder(ensure_ascii=False)
_NOT_PLAIN = "messages: nested too deeply, or not plain JSON values"


def builtin_template(name: str) -> str:
    """Source of a packaged template: `chat` (fine-tuned models) or `base`."""
    return (resources.files(__package__) / "templates" / f"{name}.jinja").read_text("utf-8")


class ChatPrompt(NamedTuple):
    """A conversation as the model reads it.

    Training on conversations adds whose each id is, the template's or a message's.
    """

    text: str
    ids: list[int]


class TurnMarks(NamedTuple):
    """Texts that a template writes before and behind each turn of the assistant, the second of them
    a part of it, and that no guarded message can contain.
    """

    before: str
    end: str

    @property
    def names(self) -> list[str]:
        """What must be guarded for that: names in brackets."""
        return _NAMES.findall(self.before + self.end)


_NAMES = re.compile(r"<[^<>]*>")
LING_TURN = TurnMarks("<role>ASSISTANT</role>", "<|role_end|>")


class ChatTemplate:
    """A compiled template; raises `TemplateError` with one line.

    `special_tokens` (`{"bos_token": "<|startoftext|>", ...}`) are variables of the template. The
    packaged templates run in this process, all others behind the fence of `fence.py`.
    """

    # Nothing is learned behind a conversation, and it is encoded as the server does it.
    ending = ""
    pieces_alone = False

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        self.source, self._special_tokens = source, dict(special_tokens or {})
        try:
            self._run, self._run_cuts = _runners(source)
        except TemplateError as err:
            raise TemplateError(f"chat template: {err}") from None

    def render(
        self,
        messages: Messages,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """Text of the conversation; `history.py` says what messages and tools may look like.

        `kwargs` are further variables of the template, such as `enable_thinking`.
        """
        variables = self._variables(messages, tools, kwargs)
        try:
            return self._run({**variables, "add_generation_prompt": add_generation_prompt})
        except TemplateError as err:
            raise TemplateError(f"chat template: {err}") from None

    def render_beginnings(
        self,
        messages: Messages,
        tools: Sequence[dict[str, Any]] | None,
        cuts: Sequence[Cut],
        **kwargs: Any,
    ) -> list[str | TemplateError]:
        """`render` of the first messages, for each of `cuts` how many and `add_generation_prompt`;
        where it fails, the error.

        Raises that of the first cut, which is to be the whole.
        """
        try:
            whole, *found = self._run_cuts(self._variables(messages, tools, kwargs), cuts)
        except TemplateError as err:
            whole, found = err, []
        if isinstance(whole, TemplateError):
            raise TemplateError(f"chat template: {whole}") from None
        return [whole, *found]

    def _variables(
        self,
        messages: Messages,
        tools: Sequence[dict[str, Any]] | None,
        kwargs: Mapping[str, Any],
    ) -> dict[str, Any]:
        return {
            **self._special_tokens,
            **kwargs,
            "messages": [plain_message(m, i) for i, m in enumerate(messages)],
            "tools": tools and [plain_tool(t, i) for i, t in enumerate(tools)],
        }

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Messages,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> ChatPrompt:
        """`encode_chat` with this template."""
        return encode_chat(self.render, tokenizer, messages, tools, add_generation_prompt, **kwargs)

    def turn_marks(self, messages: Messages) -> TurnMarks | None:
        """What stands before and behind each assistant's turn, if the turns of these messages read
        the same whatever follows them; None where that is not known.
        """
        # Only reasoning makes a turn of the packaged template depend on later ones.
        return None if self.source != CHAT_TEMPLATE or any(map(_thinks, messages)) else LING_TURN


def encode_chat(
    render: Callable[..., str],
    tokenizer: Tokenizer,
    messages: Messages,
    tools: Sequence[dict[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    **kwargs: Any,
) -> ChatPrompt:
    """The one way from messages to ids: only what the template writes becomes control tokens.

    `render` is that of a `ChatTemplate`, and the text is what it gives. A `<|role_end|>` inside a
    message or a tool is plain text, so a message cannot end its turn or speak in another role.
    """
    chat = guard_chat(tokenizer.control_tokens, messages, tools, kwargs)
    text = chat.render(render, add_generation_prompt)
    return ChatPrompt(
        text.replace(chat.mark, ""), tokenizer.encode(text, parse_special=True, guard=chat.mark)
    )


class GuardedChat(NamedTuple):
    """A conversation in which `mark` keeps names of control tokens from being some."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    variables: dict[str, Any]
    mark: str

    def render(self, render: Callable[..., str], add_generation_prompt: bool) -> str:
        """The text with its marks."""
        found = render(self.messages, self.tools, add_generation_prompt, **self.variables)
        return self._marked(found)

    def render_beginnings(
        self, template: ChatTemplate, cuts: Sequence[Cut]
    ) -> list[str | TemplateError]:
        """The texts, or errors, of `ChatTemplate.render_beginnings`, with their marks."""
        found = template.render_beginnings(self.messages, self.tools, cuts, **self.variables)
        return [t if isinstance(t, TemplateError) else self._marked(t) for t in found]

    def _marked(self, text: str) -> str:
        # A template may write JSON in ASCII.
        return text.replace(json.dumps(self.mark)[1:-1], self.mark)


def guard_chat(
    names: Iterable[str],
    messages: Messages,
    tools: Sequence[dict[str, Any]] | None,
    variables: Mapping[str, Any],
) -> GuardedChat:
    """Guard these `names` in all that is not the template's; raises `TemplateError`."""
    given = [list(messages), None if tools is None else list(tools), dict(variables)]
    mark = _unused_mark(given)
    try:
        inside, listed, further = _map_text(given, _guard(tuple(names), mark))
    except RecursionError:
        raise TemplateError(_NOT_PLAIN) from None
    return GuardedChat(inside, listed, further, mark)


@functools.lru_cache(maxsize=64)
def _guard(given: tuple[str, ...], mark: str) -> Callable[[str], str]:
    """Puts `mark` behind first characters, in a message, of what may become a control token's name.

    That is a name in either case (a template may change it), overlapping ones included, and a
    bracket: a template may join or cut texts, and the rest come from there. Closed brackets with
    something else in them, such as `</think>`, stay whole, since templates look for them.
    """
    names = [n.lower() for n in given]
    firsts = "".join({n[0] for n in names if not n[0].isalnum() and not n[0].isspace()})
    f, e = re.escape(firsts), re.escape("".join({n[-1] for n in names}))
    opening = f"|[{f}](?=(?P<rest>[^{f}{e}]*[{e}])?)" if firsts else "|(?P<rest>(?!))"
    whole = "|".join(map(re.escape, names)) or "(?!)"
    pattern = re.compile(f"(?P<name>(?=(?i:{whole})).){opening}", re.S)
    if not names:
        return lambda text: text

    @functools.lru_cache(maxsize=1024)
    def harmless(tag: str) -> bool:
        return not any(is_within(n, tag.lower()) for n in names)

    def put(found: re.Match[str]) -> str:
        first, rest = found[0], found["rest"]
        return first if rest is not None and harmless(first + rest) else first + mark

    if any(n[0] not in firsts for n in names):
        return lambda text: pattern.sub(put, text)
    begins = re.compile(f"[{f}]").search
    # Most texts have no bracket.
    return lambda text: pattern.sub(put, text) if begins(text) else text


def is_within(name: str, text: str) -> bool:
    """Whether `name` is left when some characters of `text` are cut out."""
    left = iter(text)
    return all(c in left for c in name)


def continuing(render: Callable[..., str]) -> Callable[..., str]:
    """`render` so that the last message stays open: the text ends where its content ends."""

    def open_ended(messages: Messages, *args: Any, **kwargs: Any) -> str:
        *head, last = [plain_message(m, i) for i, m in enumerate(messages)]
        mark = _unused_mark(list(messages))
        last = {**last, "content": (last.get("content") or "") + mark}
        before, found, _ = render([*head, last], *args, **kwargs).rpartition(mark)
        if not found:
            raise TemplateError("chat template: it does not print the last message, to continue it")
        return before

    return open_ended


BASE_TEMPLATE, CHAT_TEMPLATE = builtin_template("base"), builtin_template("chat")


def _thinks(message: Any) -> bool:
    """Whether a message of the assistant has reasoning, or may have."""
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return False
    return bool(message.get("reasoning_content")) or "</think>" in str(message.get("content"))


Run = Callable[[Mapping[str, Any]], str]
RunCuts = Callable[[Mapping[str, Any], Sequence[Cut]], list[str | TemplateError]]


def _runners(source: str) -> tuple[Run, RunCuts]:
    """How a template makes one text, and how it makes those of all cuts of a conversation."""
    if source not in (BASE_TEMPLATE, CHAT_TEMPLATE):
        from .fence import FencedTemplate

        fenced = FencedTemplate(source)
        return fenced.render, fenced.render_beginnings
    template = compile_own(source)

    def run(variables: Mapping[str, Any]) -> str:
        return render_own(template, variables)

    return run, functools.partial(each_cut, run)


def _unused_mark(value: Any) -> str:
    try:
        text = _JSON.encode(value)
    except (TypeError, ValueError, RecursionError):
        raise TemplateError(_NOT_PLAIN) from None
    mark = next((m for m, escaped in _MARKS if m not in text and escaped not in text), None)
    if mark is None:
        raise TemplateError("messages: every Unicode noncharacter of U+FDD0..FDEF is in use")
    return mark


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every text in it, keys too, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {
            _map_text(k, change): change(v) if type(v) is str else _map_text(v, change)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_map_text(v, change) for v in value]
    return value
