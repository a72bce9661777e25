"""`POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StrictBool, model_validator

from ...errors import RequestError
from .. import published
from ..published import publish
from .common import MAX_LOGPROBS, Sampling
from .structured import Structured
from .values import Prompts, Whole


class CompletionRequest(Sampling, Structured):
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
