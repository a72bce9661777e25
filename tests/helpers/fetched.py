"""A folder of fetched packages with a few documents each."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from ling.data.packages.catalogue import find
from ling.data.packages.store import LAYOUT, about_path, line_of, texts_path

WORDS = ("the", "a", "red", "green", "cat", "dog", "sees", "house", "tree", "old", "runs", "to")

WORD = {"lemma": "tree", "part_of_speech": "noun", "gloss": "a tall plant of wood"}


def fetched(folder: Path) -> Path:
    """The packages that `ling nano` needs, as `ling data fetch` would leave them."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    talks = [_turns(rng, 6) for _ in range(200)]
    tasks = [[f"What is {n} + {m}?", str(n + m)] for n in range(20) for m in range(20)]
    senses = [{**_text(rng), **WORD, "count": n % 2} for n in range(40)]
    _write("brown", [_text(rng, 60) for _ in range(80)], folder)
    _write("shakespeare", [_text(rng, 60) for _ in range(20)], folder)
    _write("wordnet", senses, folder)
    _write("chitchat", [{"text": "\n".join(t), "turns": t} for t in talks], folder)
    _write("reasoning-gym", [{"text": "\n".join(t), "turns": t} for t in tasks], folder)
    return folder


def _turns(rng: random.Random, count: int) -> list[str]:
    return [_text(rng, 5)["text"] for _ in range(count)]


def _text(rng: random.Random, words: int = 8) -> dict[str, Any]:
    return {"text": " ".join(rng.choices(WORDS, k=words)) + "."}


def _write(name: str, documents: list[dict[str, Any]], folder: Path) -> None:
    package = find(name)
    path = texts_path(package, folder)
    path.write_text("".join(map(line_of, documents)))
    about = {"source": package.source, "layout": LAYOUT, "bytes": path.stat().st_size}
    about_path(package, folder).write_text(json.dumps(about))
