"""What all requests that generate share, and parts of several replies.

Known fields are checked strictly. Fields of the OpenAI API that change nothing here are accepted
and ignored, fields this server cannot honour are refused by name, unknown ones are ignored with a
log line (`fields.py`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from ...errors import RequestError
from ..fields import judge
from .values import LogitBias, MaxTokens, Number, Stops, Text, Whole

MAX_CHOICES = 8
MAX_LOGPROBS = 20
MAX_TIMEOUT_S = 24 * 3600


class Body(BaseModel):
    """A request body; fields that no class names are judged in one place."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="after")
    def _judge_other_fields(self) -> Body:
        for name, value in (self.model_extra or {}).items():
            judge(name, value)
        return self


class StreamOptions(BaseModel):
    """Options that only mean something beside `stream: true`."""

    include_usage: StrictBool = False
    continuous_usage_stats: StrictBool = False


class Options(Body):
    """Fields of every request that generates; extras to the APIs' own have vLLM's names."""

    model: Text
    stream: StrictBool | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
    min_tokens: Annotated[Whole, Field(ge=0)] | None = None
    stop_token_ids: (
        Annotated[list[Annotated[Whole, Field(ge=0)]], Field(max_length=1024)] | None
    ) = None
    logit_bias: LogitBias | None = None
    """What is added to the scores of token ids."""
    ignore_eos: StrictBool | None = None
    skip_special_tokens: StrictBool | None = None
    include_stop_str_in_output: StrictBool | None = None
    priority: Annotated[Whole, Field(ge=-(2**31), lt=2**31)] | None = None
    """Lower runs first; 0 by default."""
    timeout_s: Annotated[Number, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    """Seconds after which the request fails with status 504."""
    cache_salt: Annotated[Text, Field(min_length=1, max_length=256)] | None = None
    """Cached prefixes are shared only between requests of one salt, which is also a share key."""

    def as_sampling(self, stop: list[str] | None = None) -> Sampling:
        """These fields, all of them checked, in the form that is made of every request."""
        given = {name: getattr(self, name) for name in Options.model_fields}
        return Sampling.model_construct(**given, stop=stop)


class Sampling(Options):
    """Fields that both kinds of completion share."""

    n: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    best_of: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    """-1 goes to the end of the context."""
    stop: Stops = None
    return_routed_experts: StrictBool | None = None
    routed_experts_start_len: Annotated[Whole, Field(ge=-(2**31), lt=2**31)] | None = None
    """First position whose experts are returned; negative ones count from the prompt's end."""
    return_token_ids: StrictBool | None = None
    truncate_prompt_tokens: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None
    """Only the last tokens of the prompt are read, at most this many; -1: as many as have room."""
    timings: StrictBool | None = None
    """The reply says how long its parts took."""
    timings_per_token: StrictBool | None = None
    """The same in every event of a stream."""

    @model_validator(mode="after")
    def _check_options(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise RequestError("`stream_options` needs `stream: true`", param="stream_options")
        return self

    def check_pairs(self) -> None:
        """Raise `RequestError` for fields that do not go together, of those that no schema can
        state."""
        if self.max_tokens not in (None, -1) and (self.min_tokens or 0) > (self.max_tokens or 0):
            raise RequestError("`min_tokens` is above `max_tokens`", param="min_tokens")
        n = self.n or 1
        if self.best_of is None or self.best_of == n:
            return
        below = self.best_of < n
        raise RequestError(
            f"`best_of` is {self.best_of}, below `n` = {n}"
            if below
            else f"`best_of` above `n` = {n} is not supported by this server",
            param="best_of",
        )


class PromptTokens(BaseModel):
    """How many of the prompt's tokens were not computed again."""

    cached_tokens: int


class CompletionTokens(BaseModel):
    """What the answer's tokens were for."""

    reasoning_tokens: int


class Usage(BaseModel):
    """Tokens that a request read and wrote."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens | None = None
    completion_tokens_details: CompletionTokens | None = None


class Timings(BaseModel):
    """Times of a reply, in llama-server's words: `n` are tokens, `ms` milliseconds.

    `queue` is before the prompt was read; `predicted` counts from the first new token on.
    """

    queue_ms: float
    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float
    draft_n: int
    draft_n_accepted: int


class Problem(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ProblemReply(BaseModel):
    """Body of every reply with a status of 400 or more."""

    error: Problem
