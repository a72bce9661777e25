"""Held-out text of the corpus, a part at a time, as what is scored: windows, replies, records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..data.prepared import find_prepared
from ..errors import UsageError
from ..eval.scorers.engine import EngineScorer
from ..eval.text_bits import Bits, Reply, replies, reply_bits, text_bits, windows
from ..llm import LLM

T = TypeVar("T")
# Windows of a part at most, spread evenly; replies are short, so there are more of them.
MOST_WINDOWS, MOST_REPLIES = 48, 96


@dataclass(frozen=True)
class HeldOutPart:
    """Held-out text of one part: `windows` of documents, or `replies` of conversations."""

    name: str
    prefix: Path
    """Of its token files."""
    windows: list[str]
    replies: list[Reply]

    def bits(self, llm: LLM) -> Bits:
        """Under one of our models."""
        scorer = EngineScorer(llm)
        return text_bits(scorer, self.windows) + reply_bits(scorer, self.replies)

    def asked(self) -> list[dict[str, Any]]:
        """The same for `eval/peer_text_bits.py`."""
        documents: list[dict[str, Any]] = [{"text": text} for text in self.windows]
        return documents + [{"messages": r.messages, "text": r.text} for r in self.replies]

    @property
    def bytes(self) -> int:
        """Bytes that are scored."""
        texts = [*self.windows, *(r.text for r in self.replies)]
        return sum(len(text.encode()) for text in texts)


def held_out_parts(
    data: Path, most_windows: int = MOST_WINDOWS, most_replies: int = MOST_REPLIES
) -> list[HeldOutPart]:
    """Of every prepared part under `data`; raises `UsageError` where there is none."""
    found = []
    for folder in sorted(data.iterdir()) if data.is_dir() else []:
        ready = find_prepared(folder) if folder.is_dir() else None
        if ready is None:
            continue
        with ready.valid_text.open(encoding="utf-8", newline="\n") as file:
            records = [json.loads(line) for line in file]
        texts = [r["text"] for r in records if "text" in r]
        talks = [r for r in records if "messages" in r]
        found.append(
            HeldOutPart(
                folder.name,
                ready.valid_prefix,
                spread(list(windows(texts)), most_windows),
                spread(list(replies(talks)), most_replies),
            )
        )
    if not found:
        raise UsageError(f"{data}: no prepared part here; run `ling nano` up to its stage `corpus`")
    return found


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly apart."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]
