"""A configuration as the stored tensors have it: what every reader does where the two disagree.

`config.json` may announce MTP layers that were not stored, or say nothing of stored ones; tie a
head that is there all the same; name another float type than that of the weights.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..config.model import ModelConfig
from .dtypes import DTYPES

EMBEDDING, HEAD = "model.word_embeddings.weight", "lm_head.weight"
_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.")
_SHARED = re.compile(r"model\.layers\.[0-9]{1,9}\.mlp\.shared_experts\.gate_proj\.weight")
_COMPARED_ROWS = 4096
# What torch.compile, FSDP and activation checkpointing put into the names of what they wrap.
WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

T = TypeVar("T")
log = logging.getLogger("ling")


def unwrapped(by_name: Mapping[str, T]) -> dict[str, T]:
    """The same under the names without `WRAPPERS` and without DDP's `module.` in front; unchanged
    where two names would become one."""
    plain = {WRAPPERS.sub("", name).removeprefix("module."): v for name, v in by_name.items()}
    return plain if len(plain) == len(by_name) else dict(by_name)


@dataclass(frozen=True)
class Held:
    """Tensors under the released names: which there are, and how to look at one."""

    where: object
    names: Collection[str]
    shape: Callable[[str], tuple[int, ...]]
    dtype: Callable[[str], torch.dtype]
    rows: Callable[[str, int, int], Tensor]
    """Rows of a matrix: name, first, count."""


def as_stored(cfg: ModelConfig, held: Held) -> ModelConfig:
    """`cfg` with the MTP layers, the head, the shared experts' width and the dtype that are there.

    What is missing or in another shape after that is an error of the checks that follow.
    """
    cfg = with_stored_mtp(cfg, held.names)
    cfg = _with_stored_head(cfg, held)
    shared = next(filter(_SHARED.fullmatch, held.names), None)
    if shared is not None:
        cfg = cfg.with_shared_expert_width(held.shape(shared)[0])
    dtype = str(held.dtype(EMBEDDING)).removeprefix("torch.") if EMBEDDING in held.names else ""
    return cfg.replace(dtype=dtype) if dtype in DTYPES else cfg


def with_stored_mtp(cfg: ModelConfig, names: Collection[str]) -> ModelConfig:
    """`cfg` with the number of MTP layers for which there are tensors."""
    layers = (int(m[1]) for name in names if (m := _LAYER.match(name)))
    found = max(max(layers, default=0) + 1 - cfg.num_hidden_layers, 0)
    if found == cfg.num_nextn_predict_layers or (found and not cfg.num_experts):
        return cfg
    return cfg.replace(num_nextn_predict_layers=found)


def _with_stored_head(cfg: ModelConfig, held: Held) -> ModelConfig:
    """A head that is stored beside the embedding it is tied to counts only if it differs."""
    if not cfg.tie_word_embeddings or HEAD not in held.names or EMBEDDING not in held.names:
        return cfg
    if _equal(held):
        return cfg
    log.warning(
        "%s: `tie_word_embeddings` is true, but `%s` differs from the embedding; it is used as it "
        "is stored",
        held.where,
        HEAD,
    )
    return cfg.replace(tie_word_embeddings=False)


def _equal(held: Held) -> bool:
    shape = held.shape(EMBEDDING)
    if held.shape(HEAD) != shape:
        return False
    for first in range(0, shape[0], _COMPARED_ROWS):
        count = min(_COMPARED_ROWS, shape[0] - first)
        head, embedding = (held.rows(name, first, count).float() for name in (HEAD, EMBEDDING))
        if not torch.equal(head, embedding):
            return False
    return True
