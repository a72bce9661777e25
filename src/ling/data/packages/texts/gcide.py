"""GCIDE, the dictionary made of Webster's of 1913 and others, one entry after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..archive import Archive
from .gzipped import unpacked

_DICTIONARY = r"usr/share/dictd/gcide\.dict\.dz"
# An entry begins with its headword, the rest of it is indented.
_ENTRY = re.compile(r"\n\n(?=\S)")
_FIRST = "\n\nA \\A"
# The source of what is before it, mostly in a line of its own: `[1913 Webster]`.
_SOURCE = re.compile(
    r"[ \n]*\[(?:1913 Webster|Webster 1913 Suppl\.|WordNet [\d.]+|PJC)(?: ?\+[\w .]+)?\] *"
)


def documents(archive: Archive) -> Iterator[dict[str, Any]]:
    """One document an entry."""
    for member in archive.members(_DICTIONARY):
        # The first entry follows notes about the dictionary.
        _, first, rest = unpacked(member).partition(_FIRST)
        for entry in _ENTRY.split(first + rest):
            text = re.sub(r"\n{3,}", "\n\n", _SOURCE.sub("\n", entry)).strip()
            if text:
                yield {"text": text}
