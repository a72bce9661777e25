"""What a checkpoint is and in which formats its bytes are, for `ling inspect`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ..model.names import tensor_specs
from ..text import size
from .open import open_source
from .source import Source


def inventory(path: str | Path) -> dict[str, Any]:
    """Kind, tensors, bytes by format, and whether there is a tokenizer; errors as `open_source`."""
    with contextlib.closing(open_source(path)) as source:
        names = list(tensor_specs(source.config))
        return {
            "kind": source.kind,
            "tensors": len(names),
            "formats": _bytes_by_format(source, names),
            "tokenizer": source.tokenizer_folder is not None,
        }


def _bytes_by_format(source: Source, names: list[str]) -> dict[str, int]:
    """Largest first; plain floats go by the weights' own type."""
    total: dict[str, int] = {}
    for name in names:
        stored = source.stored_as(name)
        stored = source.config.dtype if stored == "float" else stored
        total[stored] = total.get(stored, 0) + source.stored_bytes(name)
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def as_line(stored: dict[str, Any]) -> str:
    """One line for a person."""
    parts = ", ".join(f"{name} {size(count)}" for name, count in stored["formats"].items())
    tokenizer = "with tokenizer" if stored["tokenizer"] else "no tokenizer"
    return f"{stored['kind']}: {parts} ({stored['tensors']} tensors), {tokenizer}"
