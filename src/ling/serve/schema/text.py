"""`/tokenize`, `/detokenize` and `/v1/models`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from ...errors import RequestError
from .. import published
from ..conversation import Transcript
from ..published import publish
from .chat import ChatPrompt
from .common import Body
from .history import MAX_MESSAGES, Message
from .values import Text, Whole


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

    def transcript(self) -> Transcript | None:
        """The messages as templates read them, None for a text."""
        if self.messages is None:
            return None
        return Transcript(**self.transcript_fields(self.messages))


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model: Text | None = None
    tokens: list[Whole]


class Model(BaseModel):
    """One entry of `/v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ling"
    max_model_len: int
    root: str
    """Folder of an adapter; the name of what is none."""
    parent: str | None = None
    """The model that an adapter changes."""


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
