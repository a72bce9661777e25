"""`<think>…</think>` at the beginning of a reply, told apart from the answer as it is written."""

from __future__ import annotations

from typing import Literal

OPEN, CLOSE = "<think>", "</think>"

ReasoningMode = Literal["none", "auto", "open"]


def reasoning_mode(
    prompt: str, *, thinking: bool | None = None, continued: str | None = None
) -> ReasoningMode:
    """How to read the reply to `prompt`, the rendered conversation: "open" or "auto".

    "open" where the prompt ends behind `<think>`, where a continued message (`continued` is its
    content) has begun to think and not ended, and where the request asks for `thinking`: models
    such as Ring then write the closing tag alone. Not where the template has closed it already.
    """
    if continued and continued.strip():
        text = continued.lstrip()
        return "open" if text.startswith(OPEN) and CLOSE not in text else "none"
    end = prompt.rstrip()
    is_open = end.endswith(OPEN) or (bool(thinking) and not end.endswith(CLOSE))
    return "open" if is_open else "auto"


def reasoning_before_form(prompt: str, *, thinking: bool) -> ReasoningMode:
    """Where reasoning may come before an answer that is kept to a form; `thinking` says that it was
    asked for. With "auto" the answer may also begin at once."""
    if prompt.rstrip().endswith(OPEN):
        return "open"
    return "auto" if thinking else "none"


class ReasoningSplitter:
    """Divides a reply that comes in pieces into its reasoning and the rest, in linear time.

    "open": the reply begins inside of the reasoning, and may open it once more. "auto": only if it
    begins with `<think>`, but for white space; a `</think>` without that is text like any other,
    since what came before it has been shown. "none": all is the rest. Reasoning ends at the first
    `</think>`, or with the reply. Newlines around it are those of the template, and dropped.
    """

    def __init__(self, mode: ReasoningMode) -> None:
        self._state = {"none": "rest", "auto": "start", "open": "start"}[mode]
        self._is_open = mode == "open"
        self._tag = ""  # what may become a tag
        self._space: list[str] = []  # before a tag that opens the reasoning
        self._num_newlines = 0  # at the end of the reasoning so far

    def push(self, text: str, is_last: bool = False) -> tuple[str, str]:
        """The reasoning and the rest that `text` adds."""
        text, self._tag, reasoning = self._tag + text, "", ""
        if self._state == "start":
            text = self._start(text, is_last)
        if self._state in ("open", "inside"):
            reasoning, text = self._reasoning(text, is_last)
        if self._state == "closed":
            text = text.lstrip("\n")
            self._state = "rest" if text else "closed"
        return reasoning, text if self._state == "rest" else ""

    def finish(self) -> tuple[str, str]:
        """What is left when the reply has ended."""
        return self.push("", is_last=True)

    def _start(self, text: str, is_last: bool) -> str:
        body = text.lstrip()
        self._space.append(text[: len(text) - len(body)])
        if OPEN.startswith(body) and not (is_last or body == OPEN):
            self._tag = body
            return ""
        if body.startswith(OPEN):
            self._state = "open"
            return body[len(OPEN) :]
        self._state = "open" if self._is_open else "rest"
        return "".join(self._space) + body

    def _reasoning(self, text: str, is_last: bool) -> tuple[str, str]:
        """Reasoning in `text`, and what follows its end; "open" until something was said."""
        end = found = text.find(CLOSE)
        if found < 0:
            end = len(text) if is_last else _without_half_tag(text)
            self._tag = text[end:]
        body = text[:end]
        if self._state == "open":
            body = body.lstrip("\n")
        said = body.rstrip("\n")
        if said:
            said, newlines = "\n" * self._num_newlines + said, len(body) - len(said)
            self._num_newlines, self._state = newlines, "inside"
        else:
            self._num_newlines += len(body)
        if found < 0:
            return said, ""
        self._state = "closed"
        return said, text[found + len(CLOSE) :]


def _without_half_tag(text: str) -> int:
    """Where `text` ends without what may become a closing tag."""
    at = text.rfind("<", max(0, len(text) - len(CLOSE) + 1))
    return at if at >= 0 and CLOSE.startswith(text[at:]) else len(text)
