"""What the server reads and writes: OpenAI's request and response types, in pydantic.

Known fields are checked strictly. Fields of the OpenAI API that change nothing here are accepted
and ignored, fields this server cannot honour are refused by name, unknown ones are ignored with a
log line (`fields.py`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ..errors import RequestError
from . import published
from .fields import judge, say_ignored
from .published import publish
from .routed import Traced

MAX_CHOICES = 8
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_LENGTH = 1024
MAX_PROMPTS = 128
MAX_MESSAGES = 4096
MAX_BIASED = 1024
MAX_TIMEOUT_S = 24 * 3600


def _whole_text(text: str) -> str:
    # JSON can spell half of a surrogate pair; no tokenizer and no reply can hold it.
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("holds half of a surrogate pair, which is no text")
    return text


Text = Annotated[StrictStr, AfterValidator(_whole_text)]


def _whole(value: Any) -> Any:
    # JSON does not tell 3 from 3.0, and some clients write every number with a point.
    return int(value) if type(value) is float and value.is_integer() else value


Whole = Annotated[StrictInt, BeforeValidator(_whole)]
MaxTokens = Annotated[Whole, Field(ge=-1, le=2**63)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]

TokenId = Annotated[StrictStr, Field(pattern="^[0-9]{1,10}$")]
LogitBias = Annotated[
    dict[TokenId, Annotated[Number, Field(ge=-100, le=100)]], Field(max_length=MAX_BIASED)
]


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(_whole(i)) is int for i in value)


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """One prompt or many, as text or as token ids, brought to a list of prompts."""
    if isinstance(value, str) or (_is_ids(value) and value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("expected text, a list of texts, token ids, or a list of token id lists")
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"{len(value)} prompts, at most {MAX_PROMPTS} fit in one request")
    if all(isinstance(p, str) for p in value):
        return [_whole_text(p) for p in value]
    if all(_is_ids(p) for p in value):
        return [[_whole(i) for i in p] for p in value]
    raise ValueError("expected text, a list of texts, token ids, or a list of token id lists")


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        raise ValueError("expected text or a list of texts")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"{len(stops)} stop texts, at most {MAX_STOPS} are allowed")
    if any(not s or len(s) > MAX_STOP_LENGTH for s in stops):
        raise ValueError(f"a stop text has between 1 and {MAX_STOP_LENGTH} characters")
    return [_whole_text(s) for s in stops]


def _content(value: Any) -> str | None:
    """Text of a message; a list of text parts is joined, null stays."""
    if value is None:
        return None
    if isinstance(value, str):
        return _whole_text(value)
    if not isinstance(value, list):
        raise ValueError("expected text or a list of text parts")
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise ValueError(f"parts of type `{kind[:40]}` cannot be read; only `text` can")
        if kind is None or not isinstance(part.get("text"), str):
            raise ValueError("a part needs `type` (`text`) and `text`")
        texts.append(_whole_text(part["text"]))
    return "".join(texts)


_TEXT = {"type": "string"}
_IDS = {"type": "array", "items": {"type": "integer"}}
Prompts = Annotated[
    Any,
    PlainValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT},
                _IDS,
                {"type": "array", "items": _IDS},
            ]
        }
    ),
]
Stops = Annotated[
    Any,
    PlainValidator(_stops),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "maxItems": MAX_STOPS},
                {"type": "null"},
            ]
        }
    ),
]
Content = Annotated[
    Any,
    PlainValidator(_content),
    WithJsonSchema(
        {"anyOf": [_TEXT, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]}
    ),
]


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


class Sampling(Body):
    """Fields that both kinds of completion share; extras to OpenAI's have vLLM's names."""

    model: Text
    n: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    best_of: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    """-1 goes to the end of the context."""
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    stop: Stops = None
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
    return_routed_experts: StrictBool | None = None

    def _check_best_of(self, n: int) -> None:
        if self.best_of is None or self.best_of == n:
            return
        below = self.best_of < n
        raise RequestError(
            f"`best_of` is {self.best_of}, below `n` = {n}"
            if below
            else f"`best_of` above `n` = {n} is not supported by this server",
            param="best_of",
        )

    @model_validator(mode="after")
    def _check_shared_pairs(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise RequestError("`stream_options` needs `stream: true`", param="stream_options")
        if self.max_tokens not in (None, -1) and (self.min_tokens or 0) > (self.max_tokens or 0):
            raise RequestError("`min_tokens` is above `max_tokens`", param="min_tokens")
        self._check_best_of(self.n or 1)
        return self


class Message(BaseModel):
    """One turn of a conversation; only an assistant's may be without content."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra=lambda s: s.update(published.MESSAGE)
    )

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = Field(default=None, validate_default=True)
    reasoning_content: Text | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None
    audio: None = None

    @field_validator("content")
    @classmethod
    def _check_content(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("role") != "assistant":
            raise ValueError("expected text or a list of text parts; only an assistant has none")
        return value


def _thinking(value: Any) -> Any:
    """Of a template's variables only these are taken from a request."""
    for name in value if isinstance(value, dict) else ():
        if name not in Thinking.model_fields:
            say_ignored(f"chat_template_kwargs.{name}")
    return value


class Thinking(BaseModel):
    """`chat_template_kwargs`: whether the model is asked to think first; either name will do."""

    enable_thinking: StrictBool | None = None
    thinking: StrictBool | None = None


class ChatPrompt(Body):
    """How messages become a prompt."""

    add_generation_prompt: StrictBool | None = None
    """Whether the assistant's turn is opened; by default it is, unless a message is continued."""
    continue_final_message: StrictBool | None = None
    chat_template_kwargs: Annotated[Thinking, BeforeValidator(_thinking)] | None = None
    reasoning_effort: Text | None = None

    def check_continued(self, messages: list[Message] | None) -> None:
        """Raise `RequestError` for a last message that cannot be continued."""
        if not self.continue_final_message:
            return
        if self.add_generation_prompt:
            raise RequestError(
                "`continue_final_message` and `add_generation_prompt` cannot both be true",
                param="continue_final_message",
            )
        last = messages[-1] if messages else None
        if last is None or last.role != "assistant" or last.content is None:
            raise RequestError(
                "`continue_final_message` needs a last message of the assistant, with content",
                param="messages",
            )

    @property
    def template_options(self) -> dict[str, bool]:
        """Variables for the template; templates have one name or the other for thinking."""
        given = self.chat_template_kwargs or Thinking()
        effort = None if self.reasoning_effort is None else self.reasoning_effort != "none"
        named = {"enable_thinking": given.enable_thinking, "thinking": given.thinking}
        either = next((v for v in (*named.values(), effort) if v is not None), None)
        if either is None:
            return {}
        return {name: either if value is None else value for name, value in named.items()}


class ChatRequest(Sampling, ChatPrompt):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(json_schema_extra=lambda s: publish(s, published.CHAT))
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
        for name in ("max_tokens", "max_completion_tokens"):
            if getattr(self, name) == 0:
                raise RequestError(
                    f"`{name}` is 0, expected at least 1, or -1 for the rest of the context",
                    param=name,
                )
        self.check_continued(self.messages)
        return self


class CompletionRequest(Sampling):
    """`POST /v1/completions`."""

    model_config = ConfigDict(json_schema_extra=lambda s: publish(s, published.COMPLETION))
    prompt: Prompts
    echo: StrictBool | None = None
    logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _check_pairs(self) -> CompletionRequest:
        if self.max_tokens == 0 and (self.stream or not self.echo):
            raise RequestError(
                "`max_tokens` is 0, which only a whole reply with `echo: true` can have",
                param="max_tokens",
            )
        return self


class TokenizeRequest(ChatPrompt):
    """`POST /tokenize`: a text, or messages to be rendered first."""

    model_config = ConfigDict(json_schema_extra=lambda s: publish(s, published.TOKENIZE))
    model: Text | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: StrictBool = False
    """Accepted and ignored: Ling's tokenizers never add a token."""

    @model_validator(mode="after")
    def _check_one_of(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("expected either `prompt` or `messages`", param="prompt")
        self.check_continued(self.messages)
        return self


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model: Text | None = None
    tokens: list[Whole]


class PromptTokens(BaseModel):
    """How many of the prompt's tokens were not computed again."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens that a request read and wrote."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens | None = None


class TopLogprob(BaseModel):
    """One candidate token; `bytes` are the UTF-8 bytes of `token`."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """The chosen token and the best candidates at its position."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log probabilities of a chat choice."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    """Log probabilities of a plain completion; lists have one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Traced):
    """One of the `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletion(BaseModel):
    """Reply to `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(Traced):
    """One choice in a streamed chunk; `delta` holds only what is new."""

    index: int
    delta: dict[str, str]
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(BaseModel):
    """One event of a streamed chat reply; `usage` is written only when it was asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatDelta]
    usage: Usage | None = None


class CompletionChoice(Traced):
    """One of the `n` continuations of one prompt, whole or the new part of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class Completion(BaseModel):
    """Reply to `POST /v1/completions`, and one event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """One entry of `/v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ling"
    max_model_len: int


class ModelList(BaseModel):
    """Reply to `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[Model]


class Tokens(BaseModel):
    """Reply to `POST /tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]


class Detokenized(BaseModel):
    """Reply to `POST /detokenize`."""

    prompt: str


class Problem(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ProblemReply(BaseModel):
    """Body of every reply with a status of 400 or more."""

    error: Problem
