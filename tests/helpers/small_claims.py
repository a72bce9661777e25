"""A claim measured at a scale of seconds, and its picture."""

from __future__ import annotations

import json

from ling.reproduce.claim import Context, Result, Scale
from ling.reproduce.registry import claim

TINY = {
    "model": "ling-tiny",
    "overrides": {"vocab_size": 384},
    "corpus_bytes": 200_000,
    "rows": 4,
    "seq_length": 32,
    "dtype": "float32",
    "lr": 3e-3,
}
"""Settings of claims that train."""


def measured(name: str, folder, **settings) -> Result:
    """The claim's result at its quick scale with other settings; draws the picture, too."""
    one = claim(name)
    scale = Scale(budget_s=1, settings={**one.quick.settings, **settings})
    work, shared = folder / "work" / name, folder / "shared"
    for part in (work, shared):
        part.mkdir(parents=True, exist_ok=True)
    context = Context(scale=scale, work=work, shared=shared, log=lambda line: None)
    result = one.measure(context)
    assert result.figures
    assert result.verdict.endswith(".")
    if one.draw is not None:  # from what a record gives back
        one.draw(json.loads(json.dumps(result.data)), folder / f"{name}.png")
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert all(figure.here for figure in result.figures)
    return result


def values(result: Result) -> dict[str, float]:
    """Figures by what they are of."""
    return {f.what: f.value for f in result.figures}
