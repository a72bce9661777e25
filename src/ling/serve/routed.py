"""The experts of a choice's tokens in a reply: on request only, as base64 of little-endian arrays.

`routed_experts` is what SGLang calls so: int32 [tokens, layers with experts, experts per token].
Each event of a stream has the rows that are new; one after another they are those of a whole reply.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, model_serializer

if TYPE_CHECKING:
    from ..outputs import CompletionOutput, StreamChunk


class Traced(BaseModel):
    """Fields of a choice that a reply has only where they were asked for."""

    routed_experts: str | None = None
    routed_expert_weights: str | None = None
    """float32, the same shape."""
    routed_experts_shape: list[int] | None = None

    def take(self, fields: dict[str, Any]) -> None:
        """Set what `traced` gives."""
        for name, value in fields.items():
            setattr(self, name, value)

    @model_serializer(mode="wrap")  # a type of what it returns would be the published schema
    def _asked_for(self, handler: Any):
        fields = handler(self)
        if self.routed_experts is None:
            for name in Traced.model_fields:
                fields.pop(name, None)
        return fields


def traced(chunk: StreamChunk | CompletionOutput) -> dict[str, Any]:
    """The fields of `Traced` for a chunk of a choice, or all of it; none without a trace."""
    ids, weights = chunk.routed_experts, chunk.routed_expert_weights
    if ids is None or weights is None or not len(ids):
        return {}
    return {
        "routed_experts": _base64(ids.astype("<i4")),
        "routed_expert_weights": _base64(weights.astype("<f4")),
        "routed_experts_shape": list(ids.shape),
    }


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
