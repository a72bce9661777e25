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
    of = parts_of(grads)
    index = [[n for n, part in enumerate(of) if part == wanted] for wanted in PARTS]
    parts = torch.stack([squares[rows].sum() for rows in index]).sqrt()
    return torch.cat((total[None], parts.to(norms.dtype)))
