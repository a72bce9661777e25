"""`ling.LLM`: text in, text out. Tokenizer and engine meet here; stop strings live here too."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from .checkpoint.open import tokenizer_folder
from .data.chat import ChatTemplate, builtin_template, encode_chat
from .data.tokenizer import Tokenizer
from .errors import RequestError, RunError
from .hub import resolve_model
from .infer.engine import Engine, Stats
from .infer.open import open_runner
from .infer.request import Request, SamplingParams
from .text import parse_bytes

__all__ = ["LLM", "CompletionOutput", "Logprob", "RequestOutput", "SamplingParams", "StreamChunk"]

LogprobMap = dict[int, "Logprob"]


@dataclass
class Logprob:
    """Log-probability of a token, its rank (1 is most likely), and its text."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """One continuation. `finish_reason` is "stop", "length" or "abort"."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[LogprobMap] | None
    finish_reason: str | None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """A prompt and its continuations; `prompt_logprobs[0]` is None, nothing precedes it."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[LogprobMap | None] | None
    outputs: list[CompletionOutput]
    finished: bool = True


@dataclass
class StreamChunk:
    """What one step added; the last chunk of a stream has a `finish_reason`."""

    text: str
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[LogprobMap] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class LLM:
    """A model ready to generate. Safe to use from several threads: one thread runs the engine.

    `model` is a folder or a hub name, downloaded on first use; `dtype` "auto", "bfloat16" or
    "float32" (float32 throughout, in PyTorch); `format` "int4" or "int8" packs the weights as they
    are loaded, `max_memory` "6GB" runs a packed folder that is larger, `kv_cache_dtype` "int8"
    halves the KV cache. A folder without a tokenizer serves token ids, and texts are empty. Without
    a seed in the request, sampling depends on `seed` and on how many requests came before.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str = "auto",
        format: str | None = None,
        max_memory: str | None = None,
        kv_cache_dtype: str = "bf16",
        max_model_len: int | None = None,
        speculative: str = "off",
        num_drafts: int = 1,
        tokenizer: str | Path | None = None,
        num_pages: int | None = None,
        seed: int = 0,
    ) -> None:
        model = resolve_model(model)
        limit = None if max_memory is None else parse_bytes(max_memory, "--max-memory")
        runner = open_runner(model, dtype, format, limit, kv_cache_dtype)
        self.config = runner.config
        found = Path(tokenizer) if tokenizer is not None else tokenizer_folder(model)
        self.tokenizer = Tokenizer.from_folder(found) if found else None
        tok = self.tokenizer
        self.engine = Engine(
            runner,
            max_model_len=max_model_len,
            num_pages=num_pages,
            speculative=speculative,
            num_drafts=num_drafts,
            stop_token_ids=tok.stop_token_ids if tok else (self.config.eos_token_id,),
            has_id=tok.has_id if tok else None,
            seed=seed,
        )
        self.max_model_len = self.engine.max_model_len
        source = (tok.chat_template if tok else None) or builtin_template("chat")
        self._template = ChatTemplate(source) if tok else None
        self._driver = _Driver(self.engine)

    @property
    def stats(self) -> Stats:
        """Generated tokens, seconds, drafts and acceptance since the model was loaded."""
        return self.engine.stats

    # ---- requests ------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Continue prompts, batched: text, token ids, {"prompt": ...} or {"prompt_token_ids": ...},
        or a list of those.

        Raises `RequestError` before anything runs when one of them is unusable.
        """
        listed = [self._ids(p) for p in _as_list(prompts)]
        params = self._params(sampling_params, len(listed))
        texts = [[_Text(self, p) for _ in range(p.n)] for p in params]
        mails = self._driver.submit(
            [(ids, p, k) for (_, ids), p in zip(listed, params, strict=True) for k in range(p.n)]
        )
        pending = iter(mails)
        grouped = [[next(pending) for _ in row] for row in texts]
        done = []
        try:
            for group, row in zip(_progress(grouped, use_tqdm), texts, strict=True):
                for mail, text in zip(group, row, strict=True):
                    while not text.finished:
                        text.take(mail.get())
                        if text.finished and mail.request.finish_reason is None:
                            self._driver.abort(mail)
                done.append(group)
        finally:
            for mail in mails:
                self._driver.abort(mail)
        return [
            self._output(prompt, ids, p, group, row)
            for (prompt, ids), p, group, row in zip(listed, params, grouped, texts, strict=True)
        ]

    def chat(
        self,
        messages: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or a list of them."""
        many = messages if messages and isinstance(messages[0], list) else [messages]
        return self.generate([self._chat_prompt(m, tools) for m in many], sampling_params)

    def stream(
        self, prompt: Any, sampling_params: SamplingParams | None = None
    ) -> Iterator[StreamChunk]:
        """Chunks of one continuation as they come; closing the iterator aborts the request.

        Unusable prompts raise here, not at the first chunk.
        """
        _, ids = self._ids(prompt)
        params = self._params(sampling_params, 1)[0]
        (mail,) = self._driver.submit([(ids, params, 0)])
        return self._chunks(mail, _Text(self, params))

    def stream_chat(
        self, messages: Sequence[dict[str, Any]], sampling_params: SamplingParams | None = None
    ) -> Iterator[StreamChunk]:
        """`stream` for a conversation."""
        return self.stream(self._chat_prompt(messages, None), sampling_params)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The conversation as the model reads it."""
        if self._template is None:
            raise RequestError(
                "this model has no tokenizer: it takes token ids, not messages", param="messages"
            )
        return self._template.render(messages, tools, add_generation_prompt)

    # ---- inside --------------------------------------------------------------------------------

    def _chat_prompt(self, messages: Sequence[dict[str, Any]], tools: Any) -> dict[str, Any]:
        if self.tokenizer is None:
            self.render(messages, tools)  # raises
        assert self.tokenizer is not None
        text, ids = encode_chat(self.render, self.tokenizer, messages, tools)
        return {"prompt": text, "prompt_token_ids": ids}

    def _ids(self, prompt: Any) -> tuple[str | None, list[int]]:
        if isinstance(prompt, dict):
            text = prompt.get("prompt")
            if "prompt_token_ids" not in prompt:
                return self._ids(text)
            prompt = prompt["prompt_token_ids"]
        else:
            text = prompt if isinstance(prompt, str) else None
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise RequestError("this model has no tokenizer: give token ids", param="prompt")
            prompt = self.tokenizer.encode(prompt)
        if not isinstance(prompt, (list, tuple)) or not all(type(i) is int for i in prompt):
            raise RequestError("a prompt is text or a list of token ids", param="prompt")
        return text, list(prompt)

    def _params(self, given: Any, count: int) -> list[SamplingParams]:
        params = (
            list(given) if isinstance(given, (list, tuple)) else [given or SamplingParams()] * count
        )
        if len(params) != count:
            raise RequestError(
                f"{len(params)} sampling params for {count} prompts", param="sampling_params"
            )
        if self.tokenizer is None and any(p.stop for p in params):
            raise RequestError("stop strings need a tokenizer", param="stop")
        return params

    def _chunks(self, mail: _Mail, text: _Text) -> Iterator[StreamChunk]:
        try:
            while not text.finished:
                yield text.take(mail.get())
        finally:
            self._driver.abort(mail)

    def _output(
        self,
        prompt: str | None,
        ids: list[int],
        p: SamplingParams,
        group: list[_Mail],
        row: list[_Text],
    ) -> RequestOutput:
        scores = None
        if p.prompt_logprobs is not None:
            scores = [None] + [
                self.logprob_map(s, ids[i + 1], p.prompt_logprobs)
                for i, s in enumerate(group[0].request.prompt_logprobs)
            ]
        outputs = [text.output(k) for k, text in enumerate(row)]
        return RequestOutput(str(group[0].request.id), prompt, ids, cast(Any, scores), outputs)

    def logprob_map(self, scores_V: Tensor, token: int, k: int) -> LogprobMap:
        """The token's own log-probability and the k most likely ones (-1: all)."""
        own = float(scores_V[token])
        ranks = {token: int((scores_V > own).sum()) + 1}
        best = scores_V.sort(descending=True, stable=True).indices[: len(scores_V) if k < 0 else k]
        for rank, i in enumerate(best.tolist(), 1):
            ranks.setdefault(i, rank)
        tok = self.tokenizer
        return {
            i: Logprob(
                float(scores_V[i]),
                rank,
                tok.decode([i], skip_special_tokens=False) if tok else None,
            )
            for i, rank in ranks.items()
        }


def _as_list(prompts: Any) -> list[Any]:
    single = isinstance(prompts, (str, dict)) or (prompts and isinstance(prompts[0], int))
    return [prompts] if single else list(prompts)


def _progress(items: list[Any], wanted: bool) -> Any:
    if not wanted:
        return items
    from tqdm import tqdm

    return tqdm(items, unit="prompt")


class _Text:
    """Visible text of one continuation; stop strings are cut wherever tokens split them."""

    def __init__(self, llm: LLM, params: SamplingParams) -> None:
        self.llm, self.params = llm, params
        tok = llm.tokenizer
        self.decoder = (
            tok.incremental(skip_special_tokens=params.skip_special_tokens) if tok else None
        )
        self.stops = cast("list[str]", params.stop)
        self.hold = max((len(s) for s in self.stops), default=1) - 1
        self.text = self.held = ""
        self.token_ids: list[int] = []
        self.logprobs: list[LogprobMap] = []
        self.total = 0.0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def take(self, news: _News) -> StreamChunk:
        """Add new tokens; returns what may be shown."""
        start, shown = len(self.token_ids), len(self.text)
        for k, token in enumerate(news.token_ids):
            self.token_ids.append(token)
            self._score(news, k, token)
            last = k == len(news.token_ids) - 1
            hidden = last and news.finish_reason == "stop" and token == news.stop_reason
            if self.decoder is not None and not (hidden and self.params.skip_special_tokens):
                self.held += self.decoder.push(token)
            if self._stopped():
                break
        if not self.finished and news.finish_reason is not None:
            if self.decoder is not None:
                self.held += self.decoder.finish()
            if not self._stopped():
                self.finish_reason, self.stop_reason = news.finish_reason, news.stop_reason
                self.text, self.held = self.text + self.held, ""
        if not self.finished:
            cut = len(self.held) - self.hold
            if cut > 0:
                self.text, self.held = self.text + self.held[:cut], self.held[cut:]
        return StreamChunk(
            self.text[shown:],
            self.token_ids[start:],
            self.logprobs[start:] if self.params.logprobs is not None else None,
            self.finish_reason,
            self.stop_reason,
        )

    def _score(self, news: _News, k: int, token: int) -> None:
        if self.params.logprobs is not None:
            scores = self.llm.logprob_map(news.logprobs[k], token, self.params.logprobs)
            self.logprobs.append(scores)
            self.total += scores[token].logprob

    def _stopped(self) -> bool:
        found = [(at, s) for s in self.stops if (at := self.held.find(s)) >= 0]
        if not found:
            return False
        at, word = min(found)
        end = at + len(word) if self.params.include_stop_str_in_output else at
        self.text, self.held = self.text + self.held[:end], ""
        self.finish_reason, self.stop_reason = "stop", word
        return True

    def output(self, index: int) -> CompletionOutput:
        """The finished continuation."""
        scored = self.params.logprobs is not None
        return CompletionOutput(
            index,
            self.text,
            self.token_ids,
            self.total if scored else None,
            self.logprobs if scored else None,
            self.finish_reason,
            self.stop_reason,
        )


@dataclass
class _News:
    token_ids: list[int]
    logprobs: list[Tensor]
    finish_reason: str | None
    stop_reason: int | None


class _Mail:
    """What the engine thread sends to whoever waits for one request."""

    def __init__(self, request: Request) -> None:
        self.request, self.sent = request, 0
        self.box: queue.SimpleQueue[_News | BaseException] = queue.SimpleQueue()

    def get(self) -> _News:
        news = self.box.get()
        if isinstance(news, BaseException):
            raise RunError(f"the engine failed: {news}") from news
        return news

    def post(self) -> None:
        request = self.request
        output = request.output
        new, scores = output[self.sent :], request.logprobs[self.sent :]
        self.sent = len(output)
        if new or request.finish_reason is not None:
            self.box.put(_News(new, scores, request.finish_reason, request.stop_reason))


class _Driver:
    """One daemon thread that steps the engine while there is work."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.wake = threading.Condition()
        # A lock alone starves callers: the engine thread would retake it before they wake up.
        self.door = threading.Lock()
        self.mails: dict[Request, _Mail] = {}
        self.thread: threading.Thread | None = None

    def submit(self, requests: Sequence[tuple[list[int], SamplingParams, int]]) -> list[_Mail]:
        """Queue all requests, or none when one of them is unusable."""
        with self.door, self.wake:
            added: list[Request] = []
            try:
                for ids, params, offset in requests:
                    added.append(self.engine.add(ids, params, offset))
            except RequestError:
                for request in added:
                    self.engine.abort(request)
                raise
            mails = [_Mail(r) for r in added]
            self.mails.update({m.request: m for m in mails})
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._run, daemon=True, name="ling-engine")
                self.thread.start()
            self.wake.notify()
            return mails

    def abort(self, mail: _Mail) -> None:
        """Drop a request between two steps; nothing happens when it is finished."""
        with self.door, self.wake:
            self.mails.pop(mail.request, None)
            self.engine.abort(mail.request)

    def _run(self) -> None:
        while True:
            with self.door:  # whoever waits for `wake` goes first
                pass
            with self.wake:
                while not self.engine.has_work:
                    if not self.wake.wait(timeout=60) and not self.engine.has_work:
                        self.thread = None
                        return
                try:
                    touched = self.engine.step()
                except Exception as err:
                    for mail in self.mails.values():
                        self.engine.abort(mail.request)
                        mail.box.put(err)
                    self.mails.clear()
                    continue
                for request in touched:
                    waiting = self.mails.get(request)
                    if waiting is not None:
                        waiting.post()
                        if request.finish_reason is not None:
                            del self.mails[request]
