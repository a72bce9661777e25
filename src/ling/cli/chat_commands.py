"""The commands of a chat, each a line that begins with `/`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..text import nearest, one_line, shown
from ..tools import BUILTIN
from .chat_tools import choose_tools

if TYPE_CHECKING:
    from .chat import Chat

NUMBERS: dict[str, type] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "repetition_penalty": float,
    "max_tokens": int,
    "seed": int,
}
_SWITCH: dict[str, bool | None] = {"on": True, "off": False, "default": None}
Command = Callable[["Chat", str], None]
COMMANDS: dict[str, tuple[str, str, Command]] = {}
"""What follows the name, what it does, and the function."""


def command(name: str, rest: str, about: str) -> Callable[[Command], Command]:
    """Enter a function in the table."""

    def entered(function: Command) -> Command:
        COMMANDS[name] = rest, about, function
        return function

    return entered


def run(chat: Chat, line: str) -> None:
    """Do what a line such as `/set seed 7` says; raises `UsageError` for what it cannot mean."""
    name, _, rest = line[1:].partition(" ")
    if name not in COMMANDS:
        hint = nearest(name, list(COMMANDS)).replace("`", "`/", 1)
        raise UsageError(
            f"there is no command {shown('/' + name)}{hint}; /help lists them, and a message that "
            "begins with `/` is written with `//`"
        )
    COMMANDS[name][2](chat, rest.strip())


@command("help", "", "this list")
def _help(chat: Chat, rest: str) -> None:
    rows = [(f"/{name} {rest}".rstrip(), about) for name, (rest, about, _) in COMMANDS.items()]
    width = max(len(left) for left, _ in rows)
    print("\n".join(f"{left:<{width}}  {about}" for left, about in rows))
    print("Ctrl-C stops an answer, and only that; Ctrl-D ends")


@command("system", "[TEXT|off]", "show, set or remove the system message")
def _system(chat: Chat, rest: str) -> None:
    if rest:
        chat.conversation.system = None if rest == "off" else rest
    chat.screen.note(f"system: {chat.conversation.system or 'none'}")


@command(
    "set", "[NAME VALUE]", "show or change settings: temperature 0.3, thinking on, seed default"
)
def _set(chat: Chat, rest: str) -> None:
    if rest:
        name, _, value = rest.partition(" ")
        _change(chat, name, value.strip())
    settings = chat.settings
    words = [f"{name} {value}" for name, value in settings.sampling.items()]
    words += (
        [] if settings.thinking is None else [f"thinking {'on' if settings.thinking else 'off'}"]
    )
    chat.screen.note(f"set: {', '.join(words) or 'nothing, so the defaults of the model'}")


def _change(chat: Chat, name: str, value: str) -> None:
    settings = chat.settings
    if name == "thinking":
        if value not in _SWITCH:
            raise UsageError(f"`thinking` is {shown(value)}, expected on, off or default")
        settings.thinking = _SWITCH[value]
    elif name not in NUMBERS:
        raise UsageError(
            f"there is no setting {shown(name)}{nearest(name, [*NUMBERS, 'thinking'])}: expected "
            f"{', '.join(NUMBERS)} or thinking"
        )
    elif value == "default":
        settings.sampling.pop(name, None)
    else:
        try:
            number = NUMBERS[name](value)
        except ValueError:
            raise UsageError(f"`{name}` is {shown(value)}, expected a number or default") from None
        chat.model.check({**settings.sampling, name: number})
        settings.sampling[name] = number


@command("tools", "[NAMES|FILE|off]", f"show or set what the model may call: {', '.join(BUILTIN)}")
def _tools(chat: Chat, rest: str) -> None:
    if rest:
        chat.settings.tools = choose_tools(rest)
    names = [tool["function"]["name"] for tool in chat.settings.tools or ()]
    chat.screen.note(f"tools: {', '.join(names) or 'none'}")


@command("history", "", "show the conversation")
def _history(chat: Chat, rest: str) -> None:
    for message in chat.conversation.messages:
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        lines = [f"calls {call['name']} {call['arguments']}" for call in calls]
        if message["content"]:
            lines.insert(0, message["content"])
        chat.screen.message(message["role"], "\n".join(lines))


@command("undo", "", "take the last question and its answer back")
def _undo(chat: Chat, rest: str) -> None:
    question = chat.conversation.undo()
    taken = "there is nothing to take back" if question is None else f"taken back: {question}"
    chat.screen.note(one_line(taken))


@command("retry", "", "answer the last question again")
def _retry(chat: Chat, rest: str) -> None:
    before = list(chat.conversation.turns)
    question = chat.conversation.undo()
    if question is None:
        raise UsageError("there is no question yet")
    try:
        chat.ask(question)
    except BaseException:  # what was there is better than nothing
        chat.conversation.turns = before
        raise


@command("new", "", "start over, with the same system message and settings")
def _new(chat: Chat, rest: str) -> None:
    chat.conversation.clear()


@command("save", "FILE", "write the conversation to a JSON file")
def _save(chat: Chat, rest: str) -> None:
    chat.conversation.save(_path(rest, "save"))
    chat.screen.note(f"saved: {rest}")


@command("load", "FILE", "go on with a conversation that was saved")
def _load(chat: Chat, rest: str) -> None:
    chat.conversation.load(_path(rest, "load"))
    chat.screen.note(f"loaded: {len(chat.conversation.turns)} messages")


@command("exit", "", "end, as Ctrl-D does")
def _exit(chat: Chat, rest: str) -> None:
    raise EOFError


def _path(text: str, name: str) -> Path:
    if not text:
        raise UsageError(f"/{name} needs the name of a file")
    if "\0" in text:
        raise UsageError(f"{shown(text)} is the name of no file")
    return Path(os.path.expanduser(text))  # unlike Path's own, it has no error for `~nobody`
