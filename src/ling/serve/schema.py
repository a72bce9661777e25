"""What the server reads and writes: OpenAI's request and response types, in pydantic.

Known fields are checked strictly. Fields of the OpenAI API that change nothing here are accepted
and ignored, fields this server cannot honour are refused by name, unknown ones are refused as
OpenAI refuses them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
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

MAX_CHOICES = 8
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_LENGTH = 1024
MAX_PROMPTS = 128
MAX_MESSAGES = 4096

IGNORED: dict[str, type] = {
    "user": str,
    "metadata": dict,
    "store": bool,
    "service_tier": str,
    "safety_identifier": str,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "parallel_tool_calls": bool,
    "reasoning_effort": str,
    "verbosity": str,
    "prediction": dict,
    "request_id": str,
    "priority": int,
}
# Values that ask for nothing, so that clients which always send the field still work.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "prompt_logprobs": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "truncate_prompt_tokens": (),
    "return_token_ids": (False,),
}


def _whole_text(text: str) -> str:
    # JSON can spell half of a surrogate pair; no tokenizer and no reply can hold it.
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("holds half of a surrogate pair, which is no text")
    return text


Text = Annotated[StrictStr, AfterValidator(_whole_text)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int for i in value)


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
        return value
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


def _judge(name: str, value: Any) -> None:
    """Refuse an extra field that asks for something this server does not do."""
    if name not in IGNORED and name not in HARMLESS:
        raise RequestError(f"unrecognized request argument supplied: {name[:80]}", param=name[:80])
    if value is None:
        return
    if name in IGNORED:
        if type(value) is not IGNORED[name]:
            raise RequestError(f"`{name}`: expected {IGNORED[name].__name__}", param=name)
    # `1 == True` in Python, so types are compared too.
    elif not any(type(value) is type(h) and value == h for h in HARMLESS[name]):
        raise RequestError(f"`{name}` is not supported by this server", param=name)


class Body(BaseModel):
    """A request body; fields that no class names are judged in one place."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="after")
    def _judge_other_fields(self) -> Body:
        for name, value in (self.model_extra or {}).items():
            _judge(name, value)
        return self


class StreamOptions(BaseModel):
    """Options that only mean something beside `stream: true`."""

    include_usage: StrictBool = False
    continuous_usage_stats: StrictBool = False


class Sampling(Body):
    """Fields that both kinds of completion share; extras to OpenAI's have vLLM's names."""

    model: Text
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[StrictInt, Field(ge=0)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    stop: Stops = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0)] | None = None
    stop_token_ids: Annotated[list[StrictInt], Field(max_length=1024)] | None = None
    ignore_eos: StrictBool | None = None
    skip_special_tokens: StrictBool | None = None
    include_stop_str_in_output: StrictBool | None = None

    @model_validator(mode="after")
    def _check_shared_pairs(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise RequestError("`stream_options` needs `stream: true`", param="stream_options")
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise RequestError("`min_tokens` is above `max_tokens`", param="min_tokens")
        return self


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Content = Field(default=None, validate_default=True)
    reasoning_content: Text | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None
    audio: None = None

    @field_validator("content")
    @classmethod
    def _check_content(cls, content: str | None, info: ValidationInfo) -> str | None:
        if content is None and info.data.get("role") != "assistant":
            raise ValueError("expected text or a list of text parts; only an assistant has none")
        return content


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    add_generation_prompt: StrictBool = True

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
        if self.max_tokens == 0:
            raise RequestError("`max_tokens` is 0, expected at least 1", param="max_tokens")
        return self


class CompletionRequest(Sampling):
    """`POST /v1/completions`."""

    prompt: Prompts
    echo: StrictBool | None = None
    logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _check_pairs(self) -> CompletionRequest:
        if self.max_tokens == 0 and (self.stream or not self.echo):
            raise RequestError(
                "`max_tokens` is 0, which only a whole reply with `echo: true` can have",
                param="max_tokens",
            )
        return self


class TokenizeRequest(Body):
    """`POST /tokenize`: a text, or messages to be rendered first."""

    model: Text | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_generation_prompt: StrictBool = True
    add_special_tokens: StrictBool = False
    """Accepted and ignored: Ling's tokenizers never add a token."""

    @model_validator(mode="after")
    def _check_one_of(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("expected either `prompt` or `messages`", param="prompt")
        return self


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model: Text | None = None
    tokens: list[StrictInt]


class Usage(BaseModel):
    """Tokens that a request read and wrote."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


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


class ChatChoice(BaseModel):
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


class ChatDelta(BaseModel):
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


class CompletionChoice(BaseModel):
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
