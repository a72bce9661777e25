"""Grids whose runs take a second, and text for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
EXPERTS = {
    "num_experts": 7,
    "num_experts_per_tok": 1,
    "num_shared_experts": 1,
    "granularity": 2,
}
_WORDS = ["a", "grid", "of", "runs", "is", "sweep", "over", "sizes", "and", "budgets", "or", "one"]


def tree(corpus: Path, **changes: Any) -> dict[str, Any]:
    """Two runs of a small size, as YAML has them."""
    return {
        "budgets": {"1e9": ["a"]},
        "sizes": {"a": SHAPE},
        "families": {"dense": {}, "1/4": EXPERTS},
        "vocab_size": 384,
        "data": {"corpus": [str(corpus)], "valid_fraction": 0.3, "seq_length": 64},
        "training": {"lr": 0.01, "batch_tokens": 512, "checkpoints": 4},
    } | changes


def write_grid(path: Path, **changes: Any) -> Path:
    """A grid file beside its corpus."""
    corpus = write_corpus(path.parent / "text")
    path.write_text(yaml.safe_dump(tree(corpus, **changes), sort_keys=False))
    return path


def write_corpus(folder: Path) -> Path:
    """A folder of texts."""
    folder.mkdir(exist_ok=True)
    chosen = random.Random(0)
    for n in range(20):
        words = chosen.choices(_WORDS, k=600)
        (folder / f"{n}.txt").write_text(" ".join(words))
    return folder
