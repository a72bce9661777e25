"""Norms of a gradient: of all of it, and of each part of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# The order in which norms are kept; a rank that has nothing of a part counts 0 for it.
PARTS = (
    "embedding",
    "attention",
    "router",
    "experts",
    "shared_experts",
    "dense_mlp",
    "norms",
    "mtp",
    "head",
)
# The first that is found in a name decides.
_WORDS = (
    ("word_embeddings", "embedding"),
    ("lm_head", "head"),
    ("norm", "norms"),
    (".attention.", "attention"),
    (".mlp.gate.", "router"),
    (".mlp.experts.", "experts"),
    (".mlp.shared_experts.", "shared_experts"),
    (".mlp.", "dense_mlp"),
)
_MTP = re.compile(r"(.*\.layers\.\d+\.)eh_proj\.")


def parts_of(names: Iterable[str]) -> list[str | None]:
    """Which of `PARTS` each parameter counts in; everything of an MTP layer is `mtp`."""
    names = list(names)
    mtp = tuple(match[1] for match in map(_MTP.match, names) if match)
    return ["mtp" if name.startswith(mtp) else _part(name) for name in names]


def _part(name: str) -> str | None:
    return next((part for word, part in _WORDS if word in name), None)


def gradient_norms(grads: Mapping[str, Tensor]) -> Tensor:
    """Norm of all `grads` (by the names of their parameters), then of each of `PARTS`: what this
    rank has of them.

    The first is the sum that torch's `get_total_norm` makes, to the bit.
    """
    if not grads:
        return torch.zeros(1 + len(PARTS))
    norms = torch.stack(torch._foreach_norm(list(grads.values())))
    total, squares = torch.linalg.vector_norm(norms), norms.double().square()
    numbers = [PARTS.index(part) if part else len(PARTS) for part in parts_of(grads)]
    index = torch.tensor(numbers).to(squares.device)
    # The last is what is in no part.
    parts = squares.new_zeros(len(PARTS) + 1).index_add_(0, index, squares)[:-1].sqrt()
    return torch.cat((total[None], parts.to(norms.dtype)))
