"""A model of any OpenAI-compatible server as a scorer."""

from __future__ import annotations

import asyncio
import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ...data.chat_prompts import ChatPrompts
from ...data.tokenizer import Tokenizer
from ...errors import RunError, UsageError
from ...hub import resolve_tokenizer
from ...text import shown
from ..scorer import Ask, Messages, Row, Scored, cut, fitted, with_room
from ..serving.client import Answer, Client, Unreachable

A = TypeVar("A")
B = TypeVar("B")
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Pauses between the tries of one request."""
CONCURRENCY = 8
MOST_STOPS = 4
"""What OpenAI's API takes; the answer is cut at the others here."""
DEFAULT_MAX_LENGTH = 4096


class ServerScorer:
    """A `Scorer` over a URL.

    Token ids come from `tokenizer` (a folder, or a model's name), else from the server's
    `/tokenize`. Scores come from `/v1/completions` with `echo` and `logprobs`, or `prompt_logprobs`
    where the server has these; answers to messages from `/v1/chat/completions`. A request without
    an answer is repeated after the pauses of `WAITS_S`, then `Unreachable` is raised.
    """

    def __init__(
        self,
        client: Client,
        model: str | None = None,
        *,
        tokenizer: str | None = None,
        max_length: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client, self._sleep = client, sleep
        served = _served(client, model)
        self.model = served["id"]
        known = served.get("max_model_len")  # as vLLM, SGLang and our own server say it
        known = max_length or (known if type(known) is int else DEFAULT_MAX_LENGTH)
        self.max_length = known - 1  # servers want room for a token behind what they score
        found = resolve_tokenizer(tokenizer) if tokenizer else None
        self._tokenizer = Tokenizer.from_folder(found) if found else None
        self.has_template = found is not None
        self._chats = ChatPrompts(self._tokenizer)
        self._encoded = functools.lru_cache(maxsize=4096)(self._ask_for_tokens)
        self._prompt_scores: Callable[[list[int]], list[Scored]] | None = None

    @property
    def end_id(self) -> int:
        end = self._tokenizer.eod_token_id if self._tokenizer else None
        if end is None:
            raise UsageError(
                f"{self._client.root}: which token parts documents is not known; "
                "give `--tokenizer FOLDER`"
            )
        return end

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        if self._tokenizer is not None:
            return self._tokenizer.encode(text, parse_special=special)
        return list(self._encoded(text))

    def _ask_for_tokens(self, text: str) -> tuple[int, ...]:
        # vLLM, SGLang and our own server read `prompt`, llama.cpp's reads `content`.
        body = {"model": self.model, "prompt": text, "content": text, "add_special_tokens": False}
        answer = self._tried("/tokenize", body)
        ids = answer.value.get("tokens")
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise UsageError(
                f"{self._client.root}: the server tells no token ids (/tokenize: HTTP "
                f"{answer.status}); give `--tokenizer FOLDER`"
            )
        return tuple(ids)

    def render(self, messages: Messages) -> str:
        if self._tokenizer is None:
            raise UsageError(
                f"{self._client.root}: scores behind a chat template need `--tokenizer FOLDER`"
            )
        return self._chats.render(messages)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        return _at_once(self._score, [fitted(row, self.max_length) for row in rows])

    def _score(self, row: Row) -> Scored:
        ids = row.context + row.continuation
        ways = [self._prompt_scores] if self._prompt_scores else [self._echo, self._vllm]
        detail = ""
        for way in ways:
            try:
                found = way(ids)
            except RunError as err:
                if isinstance(err, Unreachable):
                    raise
                detail = f": {err}"
                continue
            if len(found) == len(ids) - 1:  # the first token has no score
                self._prompt_scores = way
                own = found[len(row.context) - 1 :]
                logprob = math.fsum(one.logprob for one in own)
                return Scored(logprob, all(one.is_greedy for one in own))
        raise UsageError(
            f"{self._client.root}: the server gives no log-probabilities of a prompt{detail}; only "
            "tasks whose answers are generated can be run there"
        )

    def _echo(self, ids: list[int]) -> list[Scored]:
        choice = self._scored(ids, echo=True, logprobs=1)
        given = _dict(choice.get("logprobs"))
        own, best = _list(given.get("token_logprobs")), _list(given.get("top_logprobs"))
        found = []
        for logprob, most in list(zip(own, best, strict=False))[1 : len(ids)]:
            if not _is_number(logprob):
                return []
            values = [v for v in _dict(most).values() if _is_number(v)]
            found.append(Scored(logprob, bool(values) and logprob >= max(values)))
        return found

    def _vllm(self, ids: list[int]) -> list[Scored]:
        choice = self._scored(ids, prompt_logprobs=1)
        found = []
        for i, row in zip(ids[1:], _list(choice.get("prompt_logprobs"))[1:], strict=False):
            own = _dict(_dict(row).get(str(i)))
            if not _is_number(own.get("logprob")):
                return []
            found.append(Scored(own["logprob"], own.get("rank") == 1))
        return found

    def _scored(self, ids: list[int], **more: Any) -> dict[str, Any]:
        body = {"model": self.model, "prompt": ids, "max_tokens": 1, "temperature": 0, **more}
        return self._choice("/v1/completions", self._tried("/v1/completions", body))

    def generate(self, asks: Sequence[Ask]) -> list[str]:
        return _at_once(self._generate, asks)

    def _generate(self, ask: Ask) -> str:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.sample,
        }
        if ask.stop:
            body["stop"] = list(ask.stop[:MOST_STOPS])
        in_chat = not isinstance(ask.prompt, str)
        path = "/v1/chat/completions" if in_chat else "/v1/completions"
        body |= {"messages" if in_chat else "prompt": ask.prompt}
        answer = self._tried(path, body)
        if answer.status == 400 and (shorter := self._shorter(ask)):
            answer = self._tried(path, body | shorter)
        choice = self._choice(path, answer)
        if not in_chat:
            said = choice.get("text")
        else:
            message = _dict(choice.get("message"))
            # A model that was cut off while it thought has said nothing: null.
            said = (message.get("content") or "") if "content" in message else None
        if not isinstance(said, str):
            raise RunError(f"{self._client.root}: an answer without its text")
        return cut(said, ask.stop)

    def _shorter(self, ask: Ask) -> dict[str, Any]:
        """What to ask instead where prompt and answer are longer than the model's context; empty
        where they are not, or where that is not known. Messages are never cut."""
        text = ask.prompt
        try:
            if not isinstance(text, str):
                count = len(self.encode(self.render(text), special=True))
                room = min(self.max_length - count, ask.max_tokens)
                return {"max_tokens": room} if 0 < room < ask.max_tokens else {}
            whole = self.encode(text, special=True)
        except UsageError:  # no tokenizer here, and none that the server tells of
            return {}
        ids, room = with_room(whole, ask.max_tokens, self.max_length)
        fits = (len(ids), room) == (len(whole), ask.max_tokens)
        return {} if fits else {"prompt": ids, "max_tokens": room}

    def _choice(self, path: str, answer: Answer) -> dict[str, Any]:
        if answer.status != 200:
            raise RunError(f"{self._client.root}{path}: HTTP {answer.status}, {answer.detail}")
        choices = _list(answer.value.get("choices"))
        if not choices:
            raise RunError(f"{self._client.root}{path}: an answer without `choices`")
        return _dict(choices[0])

    def _tried(self, path: str, body: dict[str, Any]) -> Answer:
        """The answer, waited for while the server is busy, restarts, or is gone."""
        last = ""
        for pause in (*WAITS_S, None):
            try:
                answer = self._client.post(path, body)
            except Unreachable as err:
                last = str(err)
            else:
                if answer.status != 429 and answer.status < 500:
                    return answer
                detail = f", {shown(answer.detail)}" if answer.detail else ""
                last = f"{self._client.root}: HTTP {answer.status}{detail}"
            if pause is not None:
                self._sleep(pause)
        raise Unreachable(f"{last}; tried {len(WAITS_S) + 1} times")

    def close(self) -> None:
        """Nothing is kept open."""


def _served(client: Client, model: str | None) -> dict[str, Any]:
    """What the server says of a model, by default of its first one."""
    found = asyncio.run(client.listed())
    named = [entry for entry in found if model in (None, entry["id"])]
    if not named:
        has = ", ".join(shown(entry["id"]) for entry in found[:20])
        raise UsageError(f"{client.root}: no model {shown(model)}; the server has {has}")
    return named[0]


def _at_once(ask: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """The answer to each item; the first failure ends it, and what has not begun is not asked.

    Neither a failure nor an interrupt waits for the other threads, whose server may never answer.
    """
    left, found = iter(list(enumerate(items))), queue.SimpleQueue[tuple[int, B | BaseException]]()
    lock, stop = threading.Lock(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock:
                k, item = next(left, (-1, None))
            if k < 0:
                return
            try:
                found.put((k, ask(item)))  # type: ignore[arg-type]
            except BaseException as err:
                found.put((k, err))

    for _ in range(min(CONCURRENCY, len(items))):
        threading.Thread(target=work, daemon=True).start()
    answers: dict[int, B] = {}
    try:
        while len(answers) < len(items):
            k, answer = found.get()
            if isinstance(answer, BaseException):
                raise answer
            answers[k] = answer
    finally:
        stop.set()
    return [answers[k] for k in range(len(items))]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
