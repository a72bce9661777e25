"""`ling chat`: a conversation in the terminal with a model, of this machine or of a server."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.engine import DEFAULTS, EngineConfig, flags
from ..data.assistant import AssistantEvent, ToolCallEnd, ToolCallStart, fold
from ..errors import LingError, UsageError
from ..hub import resolve_model
from ..text import one_line, printable, shown
from ..tools import BUILTIN
from ..tools.files import Tools, tools_of_model
from . import chat_commands
from .chat_models import ChatModel, Ended, LocalModel, Settings, connect
from .chat_screen import Screen
from .chat_tools import choose_tools, result_of
from .conversation import Conversation
from .options import (
    given_sampling,
    make_parser,
    model_options,
    only_adapter,
    open_llm,
    sampling_of,
    sampling_options,
    say_recommended,
)

MAX_ROUNDS = 8
"""Answers with calls, one after the other, before the word goes back to the person."""
KEY_VARIABLES = ("LING_API_KEY", "OPENAI_API_KEY")


def chat(args: list[str]) -> None:
    """Talk until the input ends."""
    ns = _parser().parse_args(args)
    if sys.stdin is None:  # as Python has it where the shell closed it
        raise UsageError("chat: there is no input to read; `ling generate` takes a `--prompt`")
    tools = None if ns.tools is None else choose_tools(ns.tools)
    if ns.model.lower().startswith(("http://", "https://")):
        model, sampling = _remote(ns, args)
    else:
        model, sampling, offered = _local(ns)
        tools = offered if ns.tools is None else tools
    with contextlib.suppress(ImportError):  # not in every Python
        import readline  # noqa: F401  # `input` then edits lines and remembers them
    print(f"{shown(model.name)} · /help lists commands, Ctrl-D ends")
    if tools and ns.tools is None:
        names = ", ".join(tool["function"]["name"] for tool in tools)
        print(f"[it may call {one_line(names)[:200]}; `/tools off` drops them]")
    Chat(model, Conversation(ns.system), Settings(sampling, None, tools)).run()


def _parser() -> Any:
    parser = make_parser("chat")
    model_options(parser, "model folder, hub name, or URL of an OpenAI-compatible server")
    sampling_options(parser, "chat")
    add = parser.add_argument
    add("--system", type=str, default=None, help="system message")
    add(
        "--tools",
        type=str,
        default=None,
        help=f"what the model may call: built-in tools ({','.join(BUILTIN)}), a file with a JSON "
        "list of tools, or off; default: those of its folder",
    )
    add(
        "--model",
        dest="served_model",
        type=str,
        default=None,
        help="with a URL: which of its models (default: the first)",
    )
    add(
        "--api-key-file",
        type=str,
        default=None,
        help="with a URL: its key; or the variable LING_API_KEY or OPENAI_API_KEY",
    )
    return parser


def _local(ns: Any) -> tuple[ChatModel, dict[str, Any], Tools | None]:
    for name, value in {"--model": ns.served_model, "--api-key-file": ns.api_key_file}.items():
        if value is not None:
            raise UsageError(f"`{name}` is for URLs of servers")
    given, adapter = given_sampling(ns), only_adapter(ns)
    asked, ns.model = ns.model, resolve_model(ns.model)
    llm = open_llm(ns)
    if llm.tokenizer is None:
        raise UsageError(
            f"{asked}: it cannot chat without a tokenizer: a folder has it in tokenizer.json, "
            "a GGUF file in its metadata, a run beside its checkpoints"
        )
    say_recommended(llm, given)
    # A template that cannot be used is reported before the first line is typed.
    llm.render([{"role": "user", "content": "hi"}])
    name = os.path.basename(os.path.abspath(asked))
    offered = tools_of_model(ns.model) if ns.tools is None else None
    return LocalModel(llm, name, adapter), given, offered


def _remote(ns: Any, args: Sequence[str]) -> tuple[ChatModel, dict[str, Any]]:
    for option in flags(EngineConfig):
        if getattr(ns, option.name, option.default) != getattr(DEFAULTS, option.name):
            name = option.name.replace("_", "-")
            raise UsageError(f"`--{name}` is for models of this machine, the server has its own")
    given = sampling_of(ns)
    # How long its answers are is the server's affair, unless somebody says so.
    if not any(arg.partition("=")[0] in ("--max-new-tokens", "--max-tokens") for arg in args):
        given.pop("max_tokens", None)
    return connect(ns.model, ns.served_model, _key(ns.api_key_file)), given


def _key(path: str | None) -> str | None:
    """The first key of the file, which may be that of the server, or what the environment has."""
    if path is None:
        return next((key for name in KEY_VARIABLES if (key := os.environ.get(name))), None)
    from ..serve.keys import keys_of_file

    return keys_of_file(Path(path), "`--api-key-file`")[0]


class Chat:
    """One conversation and all that can be changed about it while it goes on."""

    def __init__(self, model: ChatModel, conversation: Conversation, settings: Settings) -> None:
        self.model, self.conversation, self.settings = model, conversation, settings
        self.screen = Screen()

    def run(self) -> None:
        """Read lines until the input ends; an error of one line is not one of the next."""
        was_stopped = False
        while True:
            try:
                self._line(input("you> ").strip())
                was_stopped = False
            except EOFError:
                return
            except LingError as error:
                self.screen.end()
                print(f"error: {one_line(str(error))}", file=sys.stderr)
            except KeyboardInterrupt:
                if was_stopped:
                    raise
                was_stopped = True
                print()
                self.screen.note("Ctrl-C again, Ctrl-D or /exit ends")

    def _line(self, line: str) -> None:
        if line.startswith("/") and not line.startswith("//"):
            chat_commands.run(self, line)
        elif line:
            self.ask(line.removeprefix("/"))

    def ask(self, question: str) -> None:
        """Add a question and print its answer; a question without one is taken back."""
        self.conversation.add("user", question)
        before = list(self.conversation.turns)
        try:
            calls, rounds = self._answer(), 1
            while calls and self._give_results(calls):
                if rounds == MAX_ROUNDS:
                    self.screen.note(f"{rounds} answers in a row had calls: ask again to go on")
                    break
                calls, rounds = self._answer(), rounds + 1
        except (LingError, KeyboardInterrupt):
            self.conversation.turns = before[:-1]
            raise

    def _answer(self) -> list[dict[str, Any]]:
        """Print an answer and remember it; returns the calls in it that were whole."""
        if dropped := self.model.make_room(self.conversation, self.settings):
            what = "question is" if dropped == 1 else f"{dropped} questions are"
            self.screen.note(f"the context is full: the oldest {what} forgotten")
        events, reason = [], None
        with contextlib.closing(self.model.answer(self.conversation, self.settings)) as answer:
            try:
                for event in answer:
                    if isinstance(event, Ended):
                        reason = event.reason
                        continue
                    events.append(event)
                    self.screen.show(event)
            except KeyboardInterrupt:
                reason = "stopped"
        self._say_end(reason, bool(events))
        return self._remember(events, is_whole=reason not in ("stopped", "length"))

    def _say_end(self, reason: str | None, has_begun: bool) -> None:
        self.screen.end()
        if reason == "length":
            self.screen.note("cut at the limit of tokens: `/set max_tokens 1000` allows more")
        elif reason == "stopped":
            self.screen.note("stopped")
        elif not has_begun:
            self.screen.note("an empty answer")

    def _remember(self, events: list[AssistantEvent], *, is_whole: bool) -> list[dict[str, Any]]:
        """Add what an answer said; calls only of a whole one."""
        ended = {event.index for event in events if isinstance(event, ToolCallEnd)}
        begun = [event.index for event in events if isinstance(event, ToolCallStart)]
        events += [ToolCallEnd(index, False) for index in begun if index not in ended]
        message = fold(events)
        first = sum(len(turn.get("tool_calls") or ()) for turn in self.conversation.turns)
        calls = [
            {
                "id": f"call_{first + i}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for i, call in enumerate(message.tool_calls)
            if call.is_whole and is_whole
        ]
        fields = {"tool_calls": calls} if calls else {}
        self.conversation.add("assistant", message.content or (None if calls else ""), **fields)
        return calls

    def _give_results(self, calls: list[dict[str, Any]]) -> bool:
        """Run built-in tools and ask what others gave; whether the model is to go on. An empty line
        says that there is no result, and the word goes back to the person."""
        results: list[str] = []
        for i, call in enumerate(calls):
            result = self._result(call, f"{i + 1} of {len(calls)}")
            if not result.strip():
                break
            results.append(result)
        is_complete = len(results) == len(calls)
        results += ["no result"] * (len(calls) - len(results))
        for call, result in zip(calls, results, strict=True):
            self.conversation.add("tool", result, tool_call_id=call["id"])
        return is_complete

    def _result(self, call: dict[str, Any], number: str) -> str:
        name = printable(call["function"]["name"])[:60]
        result = result_of(call, self.settings.tools)
        if result is None:
            return input(f"what {name} gave ({number}, empty: nothing)> ")
        self.screen.message(name, result)
        return result
