"""What a run trains, by kind of matrix: shown before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...model.ling import Ling
from ...plan.table import columns
from ..norms import parts_of

# Order and words of the table: those of `lora.targets`, and what else a model has.
_KINDS = {
    "embedding": "embedding",
    "attention": "attention",
    "dense_mlp": "dense",
    "shared_experts": "shared",
    "experts": "experts",
    "router": "router",
    "norms": "norms",
    "mtp": "mtp",
    "head": "head",
}


@dataclass
class Row:
    """Of one kind: matrices in all and trained (each expert's own counted), ranks of adapters,
    numbers in all and trained."""

    matrices: int = 0
    trained_matrices: int = 0
    ranks: set[int] = field(default_factory=set)
    numbers: int = 0
    trained_numbers: int = 0


def rows(ling: Ling) -> dict[str, Row]:
    """The table by kind, of a network that is not yet spread over ranks; a stack of experts counts
    as one matrix an expert, an adapter's A and B as the matrix that they change.
    """
    found: dict[str, Row] = {}
    names = dict(ling.named_parameters())
    for (name, p), part in zip(names.items(), parts_of(names), strict=True):
        row = found.setdefault(_KINDS[part or "norms"], Row())
        count = len(p) if p.ndim == 3 else 1
        row.numbers += p.numel()
        row.trained_numbers += p.numel() * p.requires_grad
        if name.endswith("lora_B"):
            continue
        if name.endswith("lora_A"):
            row.ranks.add(p.shape[-2])
        else:
            row.matrices += count
        row.trained_matrices += count * p.requires_grad
    for name, count, size in frozen_matrices(ling):
        row = found.setdefault(_KINDS[parts_of([name])[0] or "norms"], Row())
        row.matrices += count
        row.numbers += size
    return {kind: found[kind] for kind in _KINDS.values() if kind in found}


def frozen_matrices(network: nn.Module) -> list[tuple[str, int, int]]:
    """(name, matrices, numbers) of what modules keep in another form than parameters, as packed
    weights: each such module tells it by `frozen_matrices`."""
    found = []
    for name, module in network.named_modules():
        # Of a module with an adapter: what it was put over.
        tell: Any = getattr(getattr(module, "base", module), "frozen_matrices", None)
        if tell is not None:
            found += [(f"{name}.{part}", count, size) for part, count, size in tell()]
    return found


def lines(ling: Ling) -> list[str]:
    """The table as text, with a sum below."""
    table, total = rows(ling), Row()
    text = [["trained", "matrices", "of", "rank", "parameters", "of", "share"]]
    for kind, row in table.items():
        text.append(_cells(kind, row))
        total.ranks |= row.ranks
        for name in ("matrices", "trained_matrices", "numbers", "trained_numbers"):
            setattr(total, name, getattr(total, name) + getattr(row, name))
    return columns([*text, _cells("all", total)])


def _cells(kind: str, row: Row) -> list[str]:
    ranks = ", ".join(map(str, sorted(row.ranks))) or ("full" if row.trained_matrices else "-")
    share = f"{row.trained_numbers / max(row.numbers, 1):.2%}" if row.trained_numbers else "frozen"
    matrices, numbers = f"{row.trained_matrices:,}", f"{row.trained_numbers:,}"
    cells = [matrices, f"{row.matrices:,}", ranks, numbers, f"{row.numbers:,}", share]
    return [kind, *cells]
