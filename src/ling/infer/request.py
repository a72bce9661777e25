"""What a caller asks for, and the state of one request. Names are vLLM's where both have them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import RequestError
from .pages import BlockTable

MAX_N = 64


@dataclass
class SamplingParams:
    """How to choose tokens; checked when made (`RequestError` names the field).

    Temperature below 1e-5 is greedy. `logprobs` and `prompt_logprobs` give that many alternatives
    (-1 the whole vocabulary) of the model's own distribution, before penalties and temperature.
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
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        self.stop = [self.stop] if isinstance(self.stop, str) else list(self.stop or [])
        if not all(isinstance(s, str) and s for s in self.stop):
            raise RequestError("`stop` must hold non-empty strings", param="stop")
        self.stop_token_ids = list(self.stop_token_ids or [])
        self._number("temperature", 0, math.inf)
        self._number("top_p", 0, 1, open_low=True)
        self._number("min_p", 0, 1)
        self._number("repetition_penalty", 0, math.inf, open_low=True)
        self._number("presence_penalty", -2, 2)
        self._number("frequency_penalty", -2, 2)
        self._whole("n", 1, MAX_N)
        self._whole("top_k", -1, 1 << 31)
        self._whole("min_tokens", 0, 1 << 31)
        if self.max_tokens is not None:
            self._whole("max_tokens", 1, 1 << 62)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                self._whole(name, -1, 1 << 31)
        if self.seed is not None:
            self._whole("seed", -(1 << 63), 1 << 64)

    def _number(self, name: str, low: float, high: float, *, open_low: bool = False) -> None:
        value = getattr(self, name)
        sound = isinstance(value, (int, float)) and not isinstance(value, bool)
        if (
            not sound
            or not math.isfinite(value)
            or not low <= value <= high
            or (open_low and value == low)
        ):
            raise RequestError(f"`{name}` is {value}, expected {low} to {high}", param=name)

    def _whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise RequestError(
                f"`{name}` is {value}, expected a whole number from {low}", param=name
            )

    @property
    def plain_greedy(self) -> bool:
        """Whether the token is the largest score itself, without penalties."""
        return self.greedy and (
            self.repetition_penalty == 1.0
            and self.presence_penalty == 0.0
            and self.frequency_penalty == 0.0
        )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < 1e-5


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
    num_prompt_tokens: int = 0
    num_computed_tokens: int = 0
    block_table: BlockTable = field(default_factory=BlockTable)
    drafts: list[int] = field(default_factory=list)
    # Positions that the MTP layer has seen, and the hidden states of those it has yet to see.
    num_mtp_computed_tokens: int = 0
    backlog: list[Tensor] = field(default_factory=list)
    num_cached_tokens: int = 0
    """Most prompt tokens that came from the prefix cache."""
    finish_reason: str | None = None
    stop_reason: int | None = None
    logprobs: list[Tensor] = field(default_factory=list)
    prompt_logprobs: list[Tensor] = field(default_factory=list)
    num_drafted: int = 0
    num_accepted: int = 0

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.tokens)

    @property
    def output(self) -> list[int]:
        """Generated ids so far."""
        return self.tokens[self.num_prompt_tokens :]

    @property
    def num_output_tokens(self) -> int:
        """Generated ids, counted."""
        return len(self.tokens) - self.num_prompt_tokens
