"""What a request returns: outputs, chunks of a stream, and text that grows token by token."""

from __future__ import annotations

import codecs
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from .data.tokenizer import Tokenizer
from .errors import RequestError, RunError
from .infer.driver import RequestEvent
from .infer.logprobs import LogprobRows, TokenLogprob
from .infer.request import SamplingParams
from .infer.routed import RoutedExperts


@dataclass(slots=True)
class Logprob:
    """Log-probability of a token, its rank (1 is most likely), its text and its bytes.

    A token may be part of a character: its text is U+FFFD then, and its bytes tell it from others.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None
    token_bytes: bytes | None = None


class LogprobMap(Mapping[int, Logprob]):
    """A token's own log-probability first, then those of the most likely ids.

    What a `dict[int, Logprob]` is, made as it is read: long answers have millions of entries.
    """

    __slots__ = ("_at", "_rows", "_tokenizer")

    def __init__(self, rows: LogprobRows, at: int, tokenizer: Tokenizer | None) -> None:
        self._rows, self._at, self._tokenizer = rows, at, tokenizer

    def _logprob(self, t: TokenLogprob) -> Logprob:
        tok, i = self._tokenizer, t.token_id
        if tok is None:
            return Logprob(t.logprob, t.rank)
        text = tok.decode([i], skip_special_tokens=False)
        return Logprob(t.logprob, t.rank, text, tok.token_bytes(i))

    def _dict(self) -> dict[int, Logprob]:
        return {t.token_id: self._logprob(t) for t in self._rows[self._at]}

    def __getitem__(self, token_id: int) -> Logprob:
        for t in self._rows[self._at]:
            if t.token_id == token_id:
                return self._logprob(t)
        raise KeyError(token_id)

    def __iter__(self) -> Iterator[int]:
        return iter([t.token_id for t in self._rows[self._at]])

    def __len__(self) -> int:
        return len(self._rows[self._at])

    def items(self) -> ItemsView[int, Logprob]:
        return self._dict().items()

    def values(self) -> ValuesView[Logprob]:
        return self._dict().values()

    def __repr__(self) -> str:
        return repr(self._dict())


@dataclass
class CompletionOutput:
    """One continuation; `finish_reason` is "stop", "length", "abort", or "error", which `error`
    explains. With log-probabilities, `text_offsets` says where in `text` each token begins.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[LogprobMap] | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    error: str | None = None
    text_offsets: list[int] | None = None
    routed_experts: np.ndarray | None = None
    """If asked for: int32 [tokens, layers with experts, experts per token], of the prompt (from
    `routed_experts_start_len` on) and of the continuation but for its last token, which nothing was
    computed from."""
    routed_expert_weights: np.ndarray | None = None
    """float32, the same shape: what their outputs were multiplied with."""


@dataclass
class RequestOutput:
    """A prompt and its continuations; `prompt_logprobs[0]` is None, nothing precedes it, and so are
    those before `prompt_logprobs_start_len`."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[LogprobMap | None] | None
    outputs: list[CompletionOutput]
    finished: bool = True
    num_cached_tokens: int = 0
    """Prompt tokens whose keys and values were there already."""


@dataclass
class StreamChunk:
    """What one step added; the last chunk of a stream has a `finish_reason`."""

    text: str
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[LogprobMap] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    text_offsets: list[int] | None = None
    num_cached_tokens: int = 0
    """Prompt tokens whose keys and values were there already."""
    routed_experts: np.ndarray | None = None
    """If asked for, the rows that are new: all chunks together have those of `CompletionOutput`,
    the prompt's first. A chunk's last row is that from which its last token was chosen."""
    routed_expert_weights: np.ndarray | None = None

    def extend(self, later: StreamChunk) -> None:
        """Append the chunk that came next."""
        self.text += later.text
        self.token_ids += later.token_ids
        if later.logprobs is not None:
            self.logprobs = (self.logprobs or []) + later.logprobs
            self.text_offsets = (self.text_offsets or []) + (later.text_offsets or [])
        self.finish_reason, self.stop_reason = later.finish_reason, later.stop_reason
        self.num_cached_tokens = later.num_cached_tokens
        self.routed_experts = _joined(self.routed_experts, later.routed_experts)
        self.routed_expert_weights = _joined(
            self.routed_expert_weights, later.routed_expert_weights
        )


def _joined(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    if first is None or second is None:
        return second if first is None else first
    return np.concatenate([first, second])


class TextOffsets:
    """Where the text of each token begins, in characters; parts of a character share its place."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def add(self, data: bytes) -> int:
        """The place of a token with these bytes; none for one that the text does not show."""
        waiting = self._decoder.getstate()[0]
        start = self._length
        if waiting and data:  # one character, unless the first part is broken
            start += len((waiting + data[:1]).decode("utf-8", "replace")) - 1
        self._length += len(self._decoder.decode(data))
        return start


class IncrementalText:
    """Visible text of one continuation; stop strings are cut wherever tokens split them.

    Text that may be the beginning of a stop string waits in `pending` until more is known.
    """

    def __init__(self, tokenizer: Tokenizer | None, params: SamplingParams) -> None:
        self.tokenizer, self.params = tokenizer, params
        skip = params.skip_special_tokens
        self.decoder = tokenizer.incremental(skip_special_tokens=skip) if tokenizer else None
        self.stops = cast("list[str]", params.stop)
        self.num_pending = max((len(s) for s in self.stops), default=1) - 1
        self.text = self.pending = ""
        self.token_ids: list[int] = []
        self.logprobs: list[LogprobMap] = []
        self._rows = LogprobRows()
        self.offsets: list[int] = []
        self._places = TextOffsets()
        self.cumulative_logprob = 0.0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.error: RequestError | None = None
        self.num_cached_tokens = 0
        self.routed_experts: RoutedExperts | None = None
        self._num_routed = 0
        # Characters that came with the first `min_tokens` tokens: no stop string ends in them.
        self.num_held = 0

    @property
    def finished(self) -> bool:
        """Whether nothing more comes."""
        return self.finish_reason is not None

    def feed(self, event: RequestEvent) -> StreamChunk:
        """Add an update of the engine, which may be the request's own error; returns what may be
        shown. Raises `RunError` where the engine itself failed."""
        if event.error is None:
            return self.add(event)
        if not isinstance(event.error, RequestError):
            raise RunError(f"the engine failed: {event.error}") from event.error
        chunk = self.add(event)
        if not self.finished:
            self.fail(event.error)
        return chunk

    def add(self, event: RequestEvent) -> StreamChunk:
        """Add new tokens; returns what may be shown."""
        start, shown = len(self.token_ids), len(self.text)
        self.num_cached_tokens = event.num_cached_tokens
        self.routed_experts = event.routed_experts
        for k, token in enumerate(event.token_ids):
            self.token_ids.append(token)
            last = k == len(event.token_ids) - 1
            end = last and event.finish_reason == "stop" and token == event.stop_reason
            hidden = end and self.params.skip_special_tokens
            if self.params.logprobs is not None:
                self._score(event.logprobs, k, hidden)
            if self.decoder is not None and not hidden:
                self.pending += self.decoder.push(token)
            self._hold()
            if self._stopped():
                break
        if not self.finished and event.finish_reason is not None:
            self._finish(event)
        if not self.finished:
            cut = len(self.pending) - self.num_pending
            if cut > 0:
                self.text, self.pending = self.text + self.pending[:cut], self.pending[cut:]
        return StreamChunk(
            self.text[shown:],
            self.token_ids[start:],
            self.logprobs[start:] if self.params.logprobs is not None else None,
            self.finish_reason,
            self.stop_reason,
            self.offsets[start:] if self.params.logprobs is not None else None,
            self.num_cached_tokens,
            *self._new_routing(),
        )

    def _new_routing(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        ids, weights = self._routing(self._num_routed)
        self._num_routed += 0 if ids is None else len(ids)
        return ids, weights

    def _routing(self, skip: int = 0) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Experts and their weights of the tokens so far, without the first `skip` rows."""
        routed = self.routed_experts
        return (None, None) if routed is None else routed.arrays(len(self.token_ids), skip)

    def _score(self, rows: LogprobRows, k: int, hidden: bool) -> None:
        self._rows.append_row(rows, k)
        own = rows[k][0]
        skip, tok = self.params.skip_special_tokens, self.tokenizer
        shown = tok and not hidden and tok.decode([own.token_id], skip_special_tokens=skip)
        self.offsets.append(
            self._places.add(tok.token_bytes(own.token_id) if tok and shown else b"")
        )
        self.logprobs.append(LogprobMap(self._rows, len(self._rows) - 1, tok))
        self.cumulative_logprob += own.logprob

    def _finish(self, event: RequestEvent) -> None:
        if self.decoder is not None:
            self.pending += self.decoder.finish()
            self._hold()
        if not self._stopped():
            self.finish_reason, self.stop_reason = event.finish_reason, event.stop_reason
            self.text, self.pending = self.text + self.pending, ""

    def _hold(self) -> None:
        if len(self.token_ids) <= self.params.min_tokens:
            self.num_held = len(self.text) + len(self.pending)

    def fail(self, error: RequestError) -> None:
        """End with the request's own error; the text so far stays."""
        self.text, self.pending = self.text + self.pending, ""
        self.finish_reason, self.error = "error", error

    def _stopped(self) -> bool:
        """Whether a stop string has come; ends the text there."""
        held = self.num_held - len(self.text)
        starts = ((self.pending.find(s, max(held - len(s) + 1, 0)), s) for s in self.stops)
        found = [(at, s) for at, s in starts if at >= 0]
        if not found:
            return False
        at, word = min(found)
        end = at + len(word) if self.params.include_stop_str_in_output else at
        self.text, self.pending = self.text + self.pending[:end], ""
        self.finish_reason, self.stop_reason = "stop", word
        return True

    def output(self, index: int) -> CompletionOutput:
        """The finished continuation."""
        scored = self.params.logprobs is not None
        return CompletionOutput(
            index,
            self.text,
            self.token_ids,
            self.cumulative_logprob if scored else None,
            self.logprobs if scored else None,
            self.finish_reason,
            self.stop_reason,
            None if self.error is None else str(self.error),
            self.offsets if scored else None,
            *self._routing(),
        )
