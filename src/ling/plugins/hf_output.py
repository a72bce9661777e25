"""What our class returns to transformers, with the cache under the name that its release uses."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

# transformers 5.24 renamed the field of every output, and the argument of every `forward`.
CACHE_NAMES = ("past_key_values", "cache")


def _cache_name() -> str:
    fields = {f.name for f in dataclasses.fields(CausalLMOutputWithPast)}
    for name in CACHE_NAMES:
        if name in fields:
            return name
    raise ImportError(f"`CausalLMOutputWithPast` has none of the cache fields {CACHE_NAMES}")


CACHE = _cache_name()


def _output(name: str, fields: tuple[str, ...], doc: str) -> Any:
    return dataclasses.make_dataclass(
        name,
        [(field, Any, None) for field in fields],
        bases=(ModelOutput,),
        namespace={"__module__": __name__, "__doc__": doc},
    )


_RECORDED = ("hidden_states", "attentions", "router_logits")

LingOutput = _output(
    "LingOutput",
    ("loss", "mtp_loss", "aux_loss", "logits", "mtp_logits", CACHE, *_RECORDED),
    """What the original class returns; `mtp_*` have one entry per MTP layer.

    `router_logits` holds, per MoE layer, float32 logits [B, S, experts] and the ids chosen.
    """,
)
BodyOutput = _output(
    "BodyOutput",
    ("last_hidden_state", CACHE, *_RECORDED),
    """What the model returns without its head: `last_hidden_state` [B, S, D] after the norm.""",
)
