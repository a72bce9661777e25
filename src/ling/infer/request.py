"""What a caller asks for, and the state of one request. Names are vLLM's where both have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from ..errors import RequestError
from ..grammar.spec import REASONING, Reasoning, StructuredOutputs
from ..text import shown
from .choice import Choosing
from .constraint import Constraint
from .draft_evidence import Acceptance
from .logprobs import LogprobRows
from .ngram import NgramIndex
from .pages import BlockTable
from .stats import Timeline

if TYPE_CHECKING:
    from .routed import RoutedExperts

MAX_N = 64
MAX_BIASED = 1024
TO_THE_END = -1
"""As `max_tokens`: as many as the context has room for, which None says as well."""


def whole_number(value: Any) -> int | None:
    """An int, or one of numpy or torch, as an int; None for anything else, true and false too."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if type(value) is int else None


def whole_numbers(values: Any) -> list[int] | None:
    """A list or a 1-D array of whole numbers as a list of ints; None for anything else."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        return None
    if all(type(i) is int for i in values):
        return list(values)
    numbers = [whole_number(i) for i in values]
    return None if None in numbers else cast("list[int]", numbers)


@dataclass
class SamplingParams:
    """How to choose tokens; checked when made (`RequestError` names the field).

    Temperature below 1e-5 is greedy. `logprobs` and `prompt_logprobs` give that many alternatives
    (-1 the whole vocabulary) of the model's own distribution, before penalties and temperature;
    `prompt_logprobs` only of the prompt's tokens from `prompt_logprobs_start_len` on, so that what
    comes before may be a cached prefix.
    `logit_bias` adds -100 to 100 to the scores of up to 1,024 token ids.
    `max_tokens` None or -1 goes to the end of the context. Before `min_tokens` nothing stops a
    continuation: neither a token nor a stop string. Whole numbers may also be written 3.0.
    With `return_routed_experts` outputs say which experts each token took, from position
    `routed_experts_start_len` on, which counts from the prompt's end where it is negative: -1 gives
    a row for each token of the continuation, the one that it was chosen from.
    `structured_outputs` is what the answer may be (`ling.StructuredOutputs`); it ends there, also
    with `ignore_eos` and before `min_tokens`. `reasoning` says where reasoning may come before it:
    "none", "auto" (a leading `<think>` block) or "open" (the prompt ended inside of one); after
    `thinking_budget` tokens of it `</think>` is forced.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprobs_start_len: int = 0
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: dict[int, float] | None = None
    return_routed_experts: bool = False
    routed_experts_start_len: int = 0
    structured_outputs: StructuredOutputs | None = None
    reasoning: Reasoning = "none"
    thinking_budget: int | None = None

    def __post_init__(self) -> None:
        self.stop = [self.stop] if isinstance(self.stop, str) else list(self.stop or [])
        if not all(isinstance(s, str) and s for s in self.stop):
            raise RequestError("`stop` must hold non-empty strings", param="stop")
        self._check_stop_token_ids()
        self._number("temperature", 0, math.inf)
        self._number("top_p", 0, 1, open_low=True)
        self._number("min_p", 0, 1)
        self._number("repetition_penalty", 0, math.inf, open_low=True)
        self._number("presence_penalty", -2, 2)
        self._number("frequency_penalty", -2, 2)
        self._whole("n", 1, MAX_N)
        self._whole("top_k", -1, 1 << 31)
        self._whole("min_tokens", 0, 1 << 31)
        self._check_max_tokens()
        if self.logit_bias is not None:
            self.logit_bias = _checked_bias(self.logit_bias)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                self._whole(name, -1, 1 << 31)
        if self.seed is not None:
            self._whole("seed", -(1 << 63), 1 << 64)
        if not isinstance(self.return_routed_experts, bool):
            raise RequestError(
                f"`return_routed_experts` is {self.return_routed_experts}, expected true or false",
                param="return_routed_experts",
            )
        self._whole("routed_experts_start_len", -(1 << 31), 1 << 31)
        self._whole("prompt_logprobs_start_len", 0, 1 << 31)
        self._check_structure()

    def _check_structure(self) -> None:
        given = self.structured_outputs
        if given is not None and not isinstance(given, StructuredOutputs):
            raise RequestError(
                "`structured_outputs` must be a `ling.StructuredOutputs`",
                param="structured_outputs",
            )
        if self.reasoning not in REASONING:
            raise RequestError(
                f"`reasoning` is {shown(self.reasoning)}, expected one of {', '.join(REASONING)}",
                param="reasoning",
            )
        if self.thinking_budget is not None:
            self._whole("thinking_budget", 0, 1 << 31)

    def _check_stop_token_ids(self) -> None:
        ids = [] if self.stop_token_ids is None else whole_numbers(self.stop_token_ids)
        if ids is None or any(i < 0 for i in ids):
            raise RequestError("`stop_token_ids` must hold token ids", param="stop_token_ids")
        self.stop_token_ids = ids

    def _check_max_tokens(self) -> None:
        if self.max_tokens is not None:
            self._whole("max_tokens", TO_THE_END, 1 << 63)
        if self.max_tokens == 0:
            raise RequestError(
                "`max_tokens` is 0, expected at least 1, or -1 for the rest of the context",
                param="max_tokens",
            )
        if self.max_tokens == TO_THE_END:
            self.max_tokens = None
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"`min_tokens` is {self.min_tokens}, above `max_tokens` = {self.max_tokens}",
                param="min_tokens",
            )

    def _number(self, name: str, low: float, high: float, *, open_low: bool = False) -> None:
        value = getattr(self, name)
        # numpy's numbers are Real, its booleans and those of Python are not numbers here.
        sound = isinstance(value, Real) and not isinstance(value, bool)
        if (
            not sound
            or not math.isfinite(value)
            or not low <= value <= high
            or (open_low and value == low)
        ):
            raise RequestError(f"`{name}` is {value}, expected {low} to {high}", param=name)
        setattr(self, name, float(value))

    def _whole(self, name: str, low: int, high: int) -> None:
        given = getattr(self, name)
        value = whole_number(int(given) if _is_whole_float(given) else given)
        if value is None or not low <= value <= high:
            raise RequestError(
                f"`{name}` is {given}, expected a whole number from {low} to {high}", param=name
            )
        setattr(self, name, value)

    @property
    def computes_prompt(self) -> bool:
        """Whether every token of the prompt is to be computed, also those of cached prefixes."""
        return (self.prompt_logprobs is not None and self.first_scored == 1) or (
            self.return_routed_experts and self.routed_experts_start_len == 0
        )

    @property
    def first_scored(self) -> int:
        """The first token of the prompt whose log-probability is wanted; nothing precedes 0."""
        return max(self.prompt_logprobs_start_len, 1)

    @property
    def plain_greedy(self) -> bool:
        """Whether the token is the largest score itself, without penalties or bias."""
        return self.greedy and (
            self.repetition_penalty == 1.0
            and self.presence_penalty == 0.0
            and self.frequency_penalty == 0.0
            and not self.logit_bias
        )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < 1e-5


def _checked_bias(given: Any) -> dict[int, float]:
    """Token ids and what is added to their scores; ids may be written as text, as in JSON."""
    wrong = not isinstance(given, Mapping) or len(given) > MAX_BIASED
    bias = {} if wrong else {_token_id(i): value for i, value in given.items()}
    if wrong or None in bias:
        raise RequestError(
            f"`logit_bias` must map at most {MAX_BIASED} token ids to numbers", param="logit_bias"
        )
    for i, value in bias.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not -100 <= float(value) <= 100:
            raise RequestError(
                f"`logit_bias` of token {i} is {shown(value)}, expected -100 to 100",
                param="logit_bias",
            )
    return {cast(int, i): float(value) for i, value in bias.items()}


def _token_id(value: Any) -> int | None:
    """A token id below 2^31, or one written in digits; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 11:
        value = int(value)
    value = whole_number(value)
    return value if value is not None and 0 <= value < 1 << 31 else None


def _is_whole_float(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, Integral) and value == value // 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulingParams:
    """When a request runs; it never changes its tokens."""

    priority: int = 0
    """Lower runs first."""
    share_key: str = ""
    """Requests of one priority share the engine by this key, not by their number."""
    deadline: float | None = None
    """`time.monotonic()` at which the request fails with status 504."""
    is_chat_turn: bool = False
    """Whether a later request is likely to continue this one: its pages are evicted last."""


DEFAULT_SCHEDULING = SchedulingParams()


@dataclass(slots=True)
class Guess:
    """A drafted token for a position, verified or not; what the request gets there shows whether it
    was right."""

    position: int
    token: int
    acceptance: Acceptance
    depth: int
    bin: int
    verified: bool


@dataclass(slots=True)
class Backlog:
    """Hidden states that an MTP layer has yet to read, the latest positions last."""

    rows: list[Tensor] = field(default_factory=list)
    count: int = 0

    def add(self, rows_D: Tensor) -> None:
        """Append rows [n, D]; they stay as they are."""
        self.rows.append(rows_D)
        self.count += rows_D.shape[0]

    def keep(self, most: int) -> bool:
        """Drop the oldest rows as far as `most` stay; whether there were any to drop."""
        before = len(self.rows)
        while self.rows and self.count - self.rows[0].shape[0] >= most:
            self.count -= self.rows.pop(0).shape[0]
        return len(self.rows) < before

    def take(self) -> list[Tensor]:
        """Remove and return all rows."""
        rows, self.rows, self.count = self.rows, [], 0
        return rows


@dataclass(eq=False)
class Request:
    """One sequence: `tokens` = prompt + output; keys and values of its first
    `num_computed_tokens` are in the pages of `block_table`."""

    id: int
    tokens: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int
    cache_salt: str = ""
    scheduling: SchedulingParams = DEFAULT_SCHEDULING
    group: int = -1
    """Requests of one caller, who waits for all of them; by default a request's own number."""
    adapter: int = 0
    """Number of the adapter that its tokens are computed with; 0 is none."""
    # Since when it waits for its turn, and the prompt tokens it got since (`turns.py`).
    turn: int = 0
    turn_tokens: int = 0
    num_prompt_tokens: int = 0
    num_computed_tokens: int = 0
    block_table: BlockTable = field(init=False)
    drafts: list[int] = field(default_factory=list)
    guesses: list[Guess] = field(default_factory=list)
    backlogs: list[Backlog] = field(default_factory=list)
    """For each MTP layer what it has yet to see."""
    ngrams: NgramIndex | None = None
    num_cached_tokens: int = 0
    """Most prompt tokens that came from the prefix cache."""
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: RequestError | None = None
    """Why it failed, with the `finish_reason` "error"."""
    logprobs: LogprobRows = field(default_factory=LogprobRows)
    prompt_logprobs: LogprobRows = field(default_factory=LogprobRows)
    routed_experts: RoutedExperts | None = None
    """Experts of its tokens so far, if asked for."""
    choosing: Choosing | None = None
    """What its choices share, from the first one on."""
    constraint: Constraint | None = None
    """Which tokens may come next, where not all may."""
    num_forced: int = 0
    """Of its drafts: those that must come, whatever the model would choose."""
    num_drafted: int = 0
    num_accepted: int = 0
    timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.tokens)
        if self.group < 0:
            self.group = self.id
        self.block_table = BlockTable(root=-self.adapter)

    def fail(self, error: RequestError) -> None:
        """End with an error, which is this request's alone."""
        self.finish_reason, self.error = "error", error

    @property
    def priority(self) -> int:
        """Lower runs first."""
        return self.scheduling.priority

    @property
    def share_key(self) -> str:
        """Whose share of the engine it takes; without a name, that of its cache salt."""
        return self.scheduling.share_key or self.cache_salt

    @property
    def is_decoding(self) -> bool:
        """Whether all tokens but the last are computed, so that a step brings the next one."""
        return 0 < self.num_computed_tokens >= len(self.tokens) - 1

    @property
    def output(self) -> list[int]:
        """Generated ids so far."""
        return self.tokens[self.num_prompt_tokens :]

    @property
    def num_output_tokens(self) -> int:
        """Generated ids, counted."""
        return len(self.tokens) - self.num_prompt_tokens
