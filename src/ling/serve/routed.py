"""The experts of a choice's tokens in a reply: on request only, as base64 of little-endian arrays.

`routed_experts` is what SGLang calls so: int32 [tokens, layers with experts, experts per token].
Each event of a stream has the rows that are new; one after another they are those of a whole reply.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from .schema.sparse import IfGiven, Sparse

if TYPE_CHECKING:
    from ..outputs import CompletionOutput, StreamChunk


class Traced(Sparse):
    """Fields of a choice that a reply has only where they were asked for."""

    routed_experts: Annotated[str | None, IfGiven] = None
    routed_expert_weights: Annotated[str | None, IfGiven] = None
    """float32, the same shape."""
    routed_experts_shape: Annotated[list[int] | None, IfGiven] = None

    def take(self, fields: dict[str, Any]) -> None:
        """Set what `traced` gives."""
        for name, value in fields.items():
            setattr(self, name, value)


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
